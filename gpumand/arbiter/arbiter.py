"""The front of the arbiter: requests come in, wait at the desk, and leave with a lease or with one named error."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator

from gpumand.arbiter import log_messages
from gpumand.arbiter.actions import Actions
from gpumand.arbiter.admission import Admission
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.idempotency import IdempotencyTokens
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.learning import LearningRecorder
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.manual import ManualOperations
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.reloading import Reloading
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.snapshot import consumer_status_of, report_of, status_of, summary_of
from gpumand.arbiter.state import ArbiterState, Publish
from gpumand.arbiter.timeouts import ended
from gpumand.arbiter.waiting_request import Waiting
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.consumer import Residency, Settings, UnitState
from gpumand.domain.device import Devices, devices_text
from gpumand.domain.errors import (
    GpumandError,
    ShuttingDown,
    TimedOut,
)
from gpumand.domain.events import Event, RequestGranted, RequestRefused
from gpumand.domain.history import Entry, Query
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.planning import Requirement
from gpumand.domain.request import MAX_WAIT_SEC, AcquireOptions, Grant, Outcome, PlanReport, Request
from gpumand.domain.status import ConsumerStatus, Status, Summary
from gpumand.ports import UnitFailed, World

log = logging.getLogger(__name__)

NOW_SEC = 10.0
"""What "at once" may take at most: a lazy consumer's health may be asked, and its answer may be slow."""

NOBODY = Owner(bus_name="", uid=0)
"""Who owns a request that is no client's: Load by hand."""


class Arbiter:
    """Lends VRAM. One instance on one event loop; every public method may be called at any time.

    Args:
        settings: the configuration to begin with.
        world: everything it deals with.
        publish: told every event, synchronously and in order.
        load_settings: reads the configuration anew; raises ConfigInvalid.
    """

    def __init__(
        self, settings: Settings, world: World, publish: Publish, load_settings: Callable[[], Awaitable[Settings]]
    ) -> None:
        self.arbiter_state = ArbiterState(settings, world.clock, world.source, world.memory, self._publish)
        self.measuring = LearningRecorder(self.arbiter_state, world.archive)
        self._tell = publish
        self.facts = Reconciler(self.arbiter_state)
        self.leases = Leases(self.arbiter_state, self.facts, world.store)
        self.busyness = BusyProbes(self.arbiter_state, world.routes)
        self._jobs = Jobs(
            self.arbiter_state, Actions(self.arbiter_state, world.units, world.routes), world.store, self.busyness
        )
        self.gate = WorkGate()
        self.scheduler = Scheduler(self.arbiter_state, self.facts, self._jobs, self.leases, self.gate, self.busyness)
        self.by_hand = ManualOperations(
            self.arbiter_state, self.facts, self.scheduler, self._jobs, self.leases, self.gate, self.busyness
        )
        self._twins = IdempotencyTokens(self.arbiter_state, self.scheduler, self.leases, self._bind)
        self._world = world
        self._arrivals = 0
        self._admission = Admission(self.arbiter_state, self.scheduler, self.gate)
        self.units_changed = asyncio.Event()
        self._reloading = Reloading(
            self.arbiter_state, self.measuring, self.facts, self.scheduler, load_settings, self.units_changed
        )

    def _publish(self, event: Event) -> None:
        self.measuring.note(event)
        self._tell(event)

    async def start(self) -> None:
        """Take up again what survived: what was learned, leases whose owner lives, pins, last uses, loads under way."""
        await self.measuring.restore()
        self.measuring.warn_of_unknown()
        await self.leases.restore(self._world.owners, self._world.units)
        for name, (devices, began_usec) in (await self._world.store.read_loads()).items():
            await self._resume(name, devices, began_usec)
        self.units_changed.set()
        self.scheduler.step()

    async def _resume(self, name: str, devices: Devices, began_usec: int) -> None:
        """Take up a load again that outlived the daemon that began it: its server loads on, whoever asked.

        The load route is called once more and joins it. One that has had all its time is over, whatever came of it.
        """
        state, now_usec = self.arbiter_state.ledger.consumers.get(name), self.arbiter_state.clock.realtime_usec()
        left_sec = 0.0 if state is None else state.spec.load_timeout_sec - abs(now_usec - began_usec) / 1e6
        if left_sec <= 0 or not devices or not self.arbiter_state.ledger.jobs.keys().isdisjoint(devices):
            await self._world.store.drop_load(name)
            return
        log.info("consumer %s was being loaded when gpumand ended; its load goes on", name)
        entry = self._entry(NOBODY, name, AcquireOptions(timeout_sec=left_sec), wants_lease=False)
        self.scheduler.resume(entry, devices)

    async def stop(self, reason: str, *, leases_end: bool = False) -> None:
        """Grant nothing any more and let go.

        Args:
            reason: one line, for those who wait.
            leases_end: there is no next start that could take leases up again: they end here, and it is told. Else
                they stay on disk.
        """
        self._admission.stopping = reason
        await self.scheduler.close(ShuttingDown(reason))
        if leases_end:
            self.leases.end_all(lambda lease: True, LeaseEnd.SHUTDOWN)
            self.arbiter_state.tell()
        await self.leases.settle()

    # -- acquiring -----------------------------------------------------------------------------------------------

    async def acquire(self, owner: Owner, consumer: str, options: AcquireOptions) -> Grant:
        """Wait until the consumer is resident and a lease on it stands.

        Args:
            owner: who asks, as the bus says.
            consumer: what for.
            options: see AcquireOptions.

        Raises:
            GpumandError: exactly one, when there is no grant; then nothing was changed for this caller.
        """
        await self.measuring.recall(consumer)
        # From what it leads to up to the queue nothing is awaited, or two calls with one token would both be new.
        lease = await self._twins.lease(owner, consumer, options)
        if lease is not None:
            return Grant(lease, endpoint=self.arbiter_state.state(consumer).spec.url)
        with self._counting_refusals(owner, consumer):
            self._admission.check(owner, consumer, options)
            self.measuring.wanted(consumer)
            entry = self._entry(owner, consumer, options)
            self.scheduler.add(entry)
            lease = await self._serve(entry)
        assert lease is not None
        waited_usec = int((self.arbiter_state.clock.monotonic() - entry.request.arrived_at) * 1e6)
        self.arbiter_state.count(grants=1, wait_usec=waited_usec)
        self.arbiter_state.publish(RequestGranted(consumer, waited_usec, lease, entry.request.priority))
        endpoint = (
            self.arbiter_state.settings.consumers[consumer].url
            if consumer in self.arbiter_state.settings.consumers
            else ""
        )
        return Grant(lease, waited_usec, tuple(entry.evicted), entry.loaded, endpoint)

    @contextlib.contextmanager
    def _counting_refusals(self, owner: Owner, consumer: str) -> Iterator[None]:
        try:
            yield
        except GpumandError as error:
            self.arbiter_state.count(refusals=1)
            log_messages.refusal(consumer, owner, error)
            self.arbiter_state.publish(RequestRefused(consumer, owner.uid, error.dbus_name, error.message))
            raise

    def _entry(self, owner: Owner, consumer: str, options: AcquireOptions, *, wants_lease: bool = True) -> Waiting:
        """A request, not yet in the queue."""
        spec, now = self.arbiter_state.state(consumer).spec, self.arbiter_state.clock.monotonic()
        self._arrivals += 1
        priority = spec.priority if options.priority is None else options.priority
        return Waiting(
            Request(self._arrivals, consumer, owner, options, priority, now),
            self.arbiter_state.ledger.devices_named(options.device),
            asyncio.get_running_loop().create_future(),
            wants_lease=wants_lease,
            from_own_unit=bool(owner.unit) and owner.unit == spec.unit,
            sample_after=now,
        )

    async def _serve(self, entry: Waiting) -> Lease | None:
        """Wait for what becomes of a request; its lease is kept on disk, and stands, when this returns."""
        try:
            self.scheduler.step()
            lease = await self._outcome(entry)
            if lease is not None:
                await self.leases.keep(lease)
                await self._bind(lease)
                self.leases.require(lease)
        except BaseException as error:
            if isinstance(error, GpumandError) and not entry.is_waiting:
                self.arbiter_state.tell()  # it was refused; a grant was told by the step that gave it
            else:  # its client has gone, or something went wrong that nobody thought of
                self._give_up(entry)
            raise
        return lease

    async def _outcome(self, entry: Waiting) -> Lease | None:
        clock, timeout_sec = self.arbiter_state.clock, min(entry.request.options.timeout_sec, MAX_WAIT_SEC)
        if entry.is_waiting and timeout_sec <= 0:
            await self.scheduler.now_or_never(entry)
            timeout_sec = NOW_SEC
        if entry.is_waiting:
            await ended(clock, entry.done, entry.request.arrived_at + timeout_sec - clock.monotonic())
        if entry.is_waiting:
            waited_for = entry.waiting_for or "a decision"
            self.scheduler.leave(entry)
            entry.refuse(TimedOut(f"waited {timeout_sec:g} s for {entry.request.consumer}: {waited_for}"))
            self.scheduler.step()
        return entry.done.result()

    def _give_up(self, entry: Waiting) -> None:
        """Nobody gets its answer: it waits no more, and what it was granted a moment ago is taken back."""
        self.scheduler.leave(entry)
        if entry.is_waiting:
            entry.done.cancel()
        elif not entry.done.cancelled() and entry.done.exception() is None and (lease := entry.done.result()):
            unshared = {lease.id} - self.leases.shared
            self.leases.end_all(lambda one: one.id in unshared, LeaseEnd.OWNER_VANISHED)
        self.scheduler.step()

    async def _bind(self, lease: Lease) -> None:
        """Have the end of a lease's unit watched before its client is told that it stands."""
        if lease.lifetime is LeaseLifetime.UNIT:
            try:
                await self.watch_units()
                self.note_unit(await self._world.units.state(lease.owner.unit))
            except UnitFailed as failed:
                log.warning("lease %s is bound to %s, which cannot be asked: %s", lease.id, lease.owner.unit, failed)

    # -- leases --------------------------------------------------------------------------------------------------

    async def release(self, lease_id: str, reason: LeaseEnd = LeaseEnd.RELEASED) -> None:
        """End a lease; returns when it is forgotten on disk too. Raises NoSuchLease."""
        ending = self.leases.begin_end(lease_id, reason)
        try:
            self.scheduler.step()
        finally:
            await ending

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        """Give a ttl lease more time from now on; None = the ttl it was granted with.

        Raises NoSuchLease, InvalidArgs (not a ttl lease), HostError.
        """
        return await self.leases.renew(lease_id, ttl_sec)

    def lease(self, lease_id: str) -> Lease:
        """A standing lease. Raises NoSuchLease."""
        return self.arbiter_state.ledger.lease(lease_id)

    async def owner_vanished(self, bus_name: str) -> None:
        """A client left the bus: its connection leases end, its requests wait no more."""
        for entry in tuple(self.scheduler):
            if entry.request.owner.bus_name == bus_name:
                self._give_up(entry)
        if self.leases.end_of_owner(bus_name):
            self.scheduler.step()

    # -- asking --------------------------------------------------------------------------------------------------

    def consumer_unit(self, consumer: str) -> str:
        """Its unit, "" when it has none. Raises NoSuchConsumer."""
        return self.arbiter_state.state(consumer).spec.unit

    def status(self) -> Status:
        """One consistent snapshot of everything."""
        return status_of(self.arbiter_state, self.scheduler)

    def summary(self) -> Summary:
        """The Manager's properties, at a cost that does not grow with what is going on."""
        return summary_of(self.arbiter_state, self.scheduler)

    def consumer_status(self, consumer: str) -> ConsumerStatus:
        """One consumer of ``status()``, at the cost of one. Raises NoSuchConsumer."""
        return consumer_status_of(self.arbiter_state, consumer)

    async def plan(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        """What Acquire would do now, and why; changes nothing. Raises NoSuchConsumer, NoSuchDevice, ShuttingDown."""
        await self.measuring.recall(consumer)
        self._admission.check_callable(consumer)
        self._admission.check_devices(consumer, options.device)
        devices = self.arbiter_state.ledger.devices_named(options.device)
        own = bool(owner.unit) and owner.unit == self.arbiter_state.state(consumer).spec.unit
        return report_of(
            consumer, await self.scheduler.decide_freshly(Requirement(consumer, devices, from_own_unit=own))
        )

    async def history(self, query: Query) -> tuple[Entry, ...]:
        """What happened, newest first."""
        return await self._world.archive.entries(query)

    # -- by hand -------------------------------------------------------------------------------------------------

    async def load(self, consumer: str, device: str, timeout_sec: float) -> Outcome:
        """Have a consumer resident, without a lease. Raises what Acquire raises."""
        await self.measuring.recall(consumer)
        self._admission.check_callable(consumer)
        began = self.arbiter_state.clock.monotonic()
        self._admission.check_devices(consumer, device)
        if self._is_there(consumer, device):
            return Outcome(consumer, devices_text(self.arbiter_state.state(consumer).devices))
        self._admission.check_queue()
        entry = self._entry(NOBODY, consumer, AcquireOptions(device=device, timeout_sec=timeout_sec), wants_lease=False)
        self.scheduler.add(entry)
        await self._serve(entry)
        return Outcome(
            consumer,
            devices_text(self.arbiter_state.state(consumer).devices),
            changed=entry.loaded,
            evicted=tuple(entry.evicted),
            duration_usec=int((self.arbiter_state.clock.monotonic() - began) * 1e6),
        )

    def _is_there(self, consumer: str, device: str) -> bool:
        """Whether a load has nothing to do, so that it need not stand in line behind those who want a lease.

        A lazy one that is resident may have its room only, which a load asks for anew.
        """
        state, wanted = self.arbiter_state.state(consumer), self.arbiter_state.ledger.devices_named(device)
        leaves = any(consumer in job.evicting for job in self.arbiter_state.ledger.jobs.values())
        is_resident = state.residency is Residency.RESIDENT and bool(state.devices) and not leaves
        return is_resident and not state.spec.lazy and (not wanted or wanted == state.devices)

    async def evict(self, consumer: str, force: bool, timeout_sec: float, method: str = "") -> Outcome:
        """Take a consumer's VRAM back, by its methods in order or by one of them.

        Raises Busy (leased or pinned without force), TimedOut, EvictionFailed, InvalidArgs.
        """
        self._admission.check_callable(consumer)
        return await self.by_hand.evict(consumer, force=force, timeout_sec=timeout_sec, method=method)

    async def pin(self, consumer: str, pinned: bool) -> None:
        """Pin or unpin a consumer; kept over restarts. Raises NoSuchConsumer, HostError."""
        self._admission.check_configured(consumer)
        await self.leases.pin(consumer, pinned=pinned)
        self.scheduler.step()

    async def reload(self) -> None:
        """Read the configuration anew and put it in force; leases stay. Raises ConfigInvalid, changing nothing."""
        await self._reloading.reload()

    # -- what is seen --------------------------------------------------------------------------------------------

    def note_unit(self, state: UnitState) -> None:
        """A unit changed, behind our back or because we asked."""
        self.facts.note_unit(state)
        self.leases.end_of_unit(state)
        self.scheduler.sample_soon()  # what it held is free now, or what it was promised is there
        self.scheduler.step()

    async def watch_units(self) -> None:
        """Have systemd tell of every unit that matters: those of consumers, and those that leases are bound to."""
        units = {
            spec.unit for spec in self.arbiter_state.settings.consumers.values() if spec.unit
        } | self.leases.leased_units()
        await self._world.units.watch(sorted(units), self.note_unit)
