"""The entry point of the arbiter: every request ends with a lease or with exactly one named error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from gpumand.arbiter.admission import Admission
from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.cancelling import Cancelling
from gpumand.arbiter.consumer_statuses import ConsumerStatuses, announced_consumer_of
from gpumand.arbiter.driver_release import DriverRelease
from gpumand.arbiter.driver_use import DriverUse
from gpumand.arbiter.idempotency import IdempotencyTokens
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.learning import LEARNED_EVENTS, LearningRecorder
from gpumand.arbiter.lease_restorer import RESTORER_EVENTS, LeaseRestorer
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.manual import ManualOperations
from gpumand.arbiter.manual_loads import ManualLoads
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.new_requests import NewRequests
from gpumand.arbiter.owner_lookups import OwnerLookups
from gpumand.arbiter.plans import Plans
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.reloading import Reloading
from gpumand.arbiter.request_waits import RequestWaits
from gpumand.arbiter.reservations import Reservations, check_amount
from gpumand.arbiter.resumed_loads import ResumedLoads
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.snapshot import status_of, summary_of
from gpumand.arbiter.state import ArbiterState, Publish
from gpumand.arbiter.unit_states import UnitStates
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain.consumer import Settings, UnitState
from gpumand.domain.driver_release import ReleaseOptions, ReleaseReport
from gpumand.domain.errors import GpumandError, ShuttingDown
from gpumand.domain.events import Event, LeaseEnded, LoadFinished, RequestGranted
from gpumand.domain.history import HistoryEntry, HistoryQuery
from gpumand.domain.lease import Lease, LeaseEnd, Owner
from gpumand.domain.request import AcquireOptions, Grant, ManualResult, PlanReport
from gpumand.domain.status import AnnouncedConsumer, ConsumerStatus, Status, Summary
from gpumand.ports import Ports

log = logging.getLogger(__name__)

NEVER = float("-inf")
"""The time of the newest reading before the first one."""


class Arbiter:
    """Grants leases on consumers. One instance runs on one event loop; any public method may be called at any time.

    Args:
        settings: the initial configuration.
        ports: clock, VRAM source, units, routes, store, owners, archive, host memory.
        publish: receives every event, synchronously and in order.
        load_settings: reads the configuration again; raises ConfigInvalid.
    """

    def __init__(
        self, settings: Settings, ports: Ports, publish: Publish, load_settings: Callable[[], Awaitable[Settings]]
    ) -> None:
        self.state = ArbiterState(
            settings, ports.clock, ports.source, ports.memory, ports.holders, self._record_and_publish
        )
        self.learning = LearningRecorder(self.state, ports.archive)
        self._forward_event = publish
        self.reconciler = Reconciler(self.state)
        self.leases = Leases(self.state, self.reconciler, ports.store)
        self.busy_probes = BusyProbes(self.state, ports.routes, ports.cpu_times)
        self._jobs = Jobs(self.state, ports.units, ports.routes, ports.store, self.busy_probes)
        self.gate = WorkGate()
        self._nested = NestedLeases(self.state, self.leases)
        self.scheduler = Scheduler(
            self.state, self.reconciler, self._jobs, self.leases, self.gate, self.busy_probes, self._nested
        )
        self.driver_use = DriverUse(self.state, self.scheduler, ports.driver)
        self.driver_release = DriverRelease(self.state, self.gate, self.scheduler, ports.driver)
        self._requests = NewRequests(self.state)
        self._nested.connect(self.scheduler, self._requests.make)
        self.manual = ManualOperations(
            self.state, self.reconciler, self.scheduler, self._jobs, self.leases, self.gate, self.busy_probes
        )
        self._restorer = LeaseRestorer(self.state, self.scheduler, self.gate, self._requests.make_load)
        self._learners: Mapping[type, Callable[[Any], None]] = {
            **dict.fromkeys(LEARNED_EVENTS, self.learning.record_event),
            LeaseEnded: self.learning.uses.note_end,
            **dict.fromkeys(RESTORER_EVENTS, self._restorer.record_event),
        }
        self._resumed_loads = ResumedLoads(self.state, self.scheduler, self._requests, ports.store)
        self._units = UnitStates(self.state, self.reconciler, self.leases, self.scheduler, self.driver_use, ports.units)
        self._owner_lookups = OwnerLookups(self.leases, self.scheduler, ports.owners)
        self._waits = RequestWaits(
            self.state,
            self.scheduler,
            self.leases,
            self._nested,
            self._jobs,
            self._units,
            self._owner_lookups,
            ports.holders,
        )
        self._idempotency = IdempotencyTokens(self.state, self.scheduler, self.leases, self._units.watch_owner)
        self._ports = ports
        self._statuses = ConsumerStatuses(self.state)
        self._cancelling = Cancelling(self.state, self.scheduler)
        self._admission = Admission(self.state, self.scheduler, self.gate)
        self._manual_loads = ManualLoads(self.state, self.scheduler, self._admission, self._requests, self._waits)
        self._reservations = Reservations(self.state, ports.holders)
        self._plans = Plans(
            self.state, self.scheduler, self.learning, self._admission, self._reservations, self._nested
        )
        self.units_changed = asyncio.Event()
        self._reloading = Reloading(
            self.state, self.learning, self.reconciler, self.scheduler, load_settings, self.units_changed
        )

    def _record_and_publish(self, event: Event) -> None:
        learner = self._learners.get(type(event))
        if learner is not None:
            learner(event)
        self._forward_event(event)
        if isinstance(event, LoadFinished):
            self._units.read_after_load(event.consumer)

    async def start(self) -> None:
        """Restore measurements, leases whose owner still exists, pins, last uses and unfinished loads."""
        await self.learning.restore()
        self.learning.warn_of_unknown_footprints()
        await self.leases.restore(self._ports.owners, self._ports.units)
        await self._resumed_loads.resume_all()
        self.units_changed.set()
        self.scheduler.step()
        self._owner_lookups.start(tuple(self.state.ledger.leases.values()))

    async def stop(self, reason: str, *, leases_end: bool = False) -> None:
        """Refuse all requests, cancel background tasks and finish writing leases.

        Args:
            reason: one line, sent to every waiting client.
            leases_end: no later start can restore the leases, so they end now and their ends are announced. Otherwise
                they stay on disk.
        """
        self._admission.stopping = reason
        await self.scheduler.close(ShuttingDown(reason))
        if leases_end:
            self.leases.end_all(lambda lease: True, LeaseEnd.SHUTDOWN)
            self.state.publish_changes()
        await self.leases.flush()

    # -- acquiring -----------------------------------------------------------------------------------------------

    async def acquire(self, owner: Owner, consumer: str, options: AcquireOptions) -> Grant:
        """Wait until the consumer is resident and grant a lease on it.

        Args:
            owner: the caller, as the bus reports it.
            consumer: the requested consumer; "" reserves VRAM without a consumer.
            options: see AcquireOptions.

        Raises:
            GpumandError: exactly one, when no lease is granted; then the caller holds nothing.
        """
        if consumer and not options.vram_mib and not options.whole_device:
            return await self._acquire(owner, consumer, options)
        try:
            check_amount(consumer, options)
        except GpumandError as error:
            self._admission.count_refusal(owner, consumer, error)
            raise
        async with self._reservations.requested(owner, options) as name:
            return await self._acquire(owner, name, options, is_reservation=True)

    async def _acquire(
        self, owner: Owner, consumer: str, options: AcquireOptions, *, is_reservation: bool = False
    ) -> Grant:
        self.driver_use.note_request(consumer, options.device)
        if self.state.sampled_at == NEVER:
            await self._read_if_never_read()
        if self.learning.is_unknown(consumer):
            await self.learning.restore_if_unknown(consumer)
        # No await between the result of this lookup and ``scheduler.add``: otherwise two calls with the same token
        # would both count as new and get two leases.
        lease = await self._idempotency.lease(owner, consumer, options) if options.token else None
        if lease is not None:
            return Grant(lease, endpoint=self.state.consumer(consumer).spec.url)
        try:
            self._admission.check(owner, consumer, options, is_reservation=is_reservation)
            self._nested.check(owner, consumer, options)
            self.learning.uses.note_request(consumer)
            entry = self._requests.make(owner, consumer, options)
            entry.own_leases = self._nested.own_leases(owner, options)
            if not self.scheduler.grant_again(entry):
                self.scheduler.add(entry)
            lease = await self._waits.result(entry)
        except GpumandError as error:
            self._admission.count_refusal(owner, consumer, error)
            raise
        assert lease is not None
        waited_usec = int((self.state.clock.monotonic() - entry.request.arrived_at) * 1e6)
        self.state.count_grant(waited_usec)
        self.state.publish(RequestGranted(lease.public_consumer, waited_usec, lease, entry.request.priority))
        endpoint = self.state.settings.consumers[consumer].url if consumer in self.state.settings.consumers else ""
        return Grant(lease, waited_usec, tuple(entry.evicted), entry.loaded, endpoint)

    async def _read_if_never_read(self) -> None:
        """Take the first reading, where the daemon has not woken a sleeping card for it: devices are unknown before."""
        if self.state.sampled_at == NEVER and not self.driver_use.is_open:
            await self.state.sample()

    # -- leases --------------------------------------------------------------------------------------------------

    async def release(self, lease_id: str, reason: LeaseEnd = LeaseEnd.RELEASED) -> None:
        """End a lease; returns when it is deleted from disk too. Raises NoSuchLease."""
        consumer = self.state.ledger.lease(lease_id).consumer
        ending = self.leases.end(lease_id, reason)
        # The lease has ended in memory. Waiting requests are served before the disk is waited for.
        try:
            self.scheduler.step_after_lease(consumer)
        finally:
            await ending

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        """Extend a ttl lease, counted from now.

        Args:
            lease_id: the lease.
            ttl_sec: seconds from now; None = the ttl it was granted with.

        Raises:
            NoSuchLease, InvalidArgs (not a ttl lease), HostError (cannot be written to disk).
        """
        return await self.leases.renew(lease_id, ttl_sec)

    def request_owner(self, request_id: str) -> Owner:
        """The client of a waiting request. Raises NoSuchRequest."""
        return self._cancelling.owner(request_id)

    def cancel(self, request_id: str, caller: Owner) -> None:
        """Refuse a waiting request with the error Cancelled. Raises NoSuchRequest."""
        self._cancelling.cancel(request_id, caller)

    def lease(self, lease_id: str) -> Lease:
        """An active lease by its id. Raises NoSuchLease."""
        return self.state.ledger.lease(lease_id)

    async def owner_vanished(self, bus_name: str) -> None:
        """A client left the bus: end its connection leases and drop its waiting requests."""
        self._waits.abandon_requests_of(bus_name)
        self.driver_release.client_left(bus_name)
        if self.leases.end_for_owner(bus_name):
            self.scheduler.step()

    def return_given_back(self) -> None:
        """Restore leases that were given back for a nested lease which is over; after the first readings."""
        self._nested.restore_unused()

    # -- status and plans ----------------------------------------------------------------------------------------

    def consumer_unit(self, consumer: str) -> str:
        """The consumer's systemd unit, "" when it has none. Raises NoSuchConsumer."""
        return self.state.consumer(consumer).spec.unit

    def consumer_fleet(self, consumer: str) -> str:
        """The key ``fleet`` of the consumer, "" when it has none. Raises NoSuchConsumer."""
        return self.state.consumer(consumer).spec.fleet

    def status(self) -> Status:
        """A consistent snapshot of devices, consumers, leases, queue and statistics."""
        return status_of(self.state, self.scheduler, self._statuses)

    def status_refresh(self) -> Awaitable[None] | None:
        """A reading to await before the status, where the driver rests; None while readings are taken anyway."""
        return self.driver_use.refresh_for_status() if self.driver_use.is_resting else None

    def lease_count(self) -> int:
        """Number of active leases."""
        return len(self.state.ledger.leases)

    def summary(self) -> Summary:
        """The properties of the Manager object, in constant time."""
        return summary_of(self.state, self.scheduler)

    def consumer_status(self, consumer: str) -> ConsumerStatus:
        """The status of one consumer, without building the whole snapshot. Raises NoSuchConsumer."""
        return self._statuses.of(consumer)

    def announced_consumer(self, consumer: str) -> AnnouncedConsumer:
        """The values of one consumer that clients are informed of. Raises NoSuchConsumer."""
        return announced_consumer_of(self.state, consumer)

    async def plan(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        """What Acquire would do now; see ``Plans.plan``."""
        self.driver_use.note_request(consumer, options.device)
        await self._read_if_never_read()
        return await self._plans.plan(owner, consumer, options)

    async def history(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        """Recorded grants, refusals, loads, evictions and lease ends, newest first."""
        return await self._ports.archive.entries(query)

    # -- manual operations ---------------------------------------------------------------------------------------

    async def load(self, consumer: str, device: str, timeout_sec: float) -> ManualResult:
        """Load a consumer without granting a lease. Raises the errors of Acquire."""
        self.driver_use.note_request(consumer, device)
        await self._read_if_never_read()
        await self.learning.restore_if_unknown(consumer)
        return await self._manual_loads.load(consumer, device, timeout_sec)

    async def evict(self, consumer: str, force: bool, timeout_sec: float, method: str = "") -> ManualResult:
        """Take a consumer's VRAM back, by its eviction methods in order or by one of them.

        Args:
            consumer: the consumer to evict.
            force: also evict when it is leased (its leases are revoked), pinned or busy.
            timeout_sec: how long to wait until its devices are free of other jobs.
            method: the only method to use; "" = all of the consumer's methods in order.

        Raises:
            Busy (leased, pinned or busy without force), TimedOut, EvictionFailed, InvalidArgs, ShuttingDown.
        """
        self.driver_use.note_request(consumer)
        self._admission.check_callable(consumer)
        return await self.manual.evict(consumer, force=force, timeout_sec=timeout_sec, method=method)

    async def pin(self, consumer: str, pinned: bool) -> None:
        """Pin or unpin a consumer; pins survive restarts of the daemon. Raises NoSuchConsumer, HostError."""
        self._admission.check_configured(consumer)
        await self.leases.pin(consumer, pinned=pinned)
        self.scheduler.step()

    async def release_gpu(
        self, owner: Owner, options: ReleaseOptions, ended: Callable[[], None] | None = None
    ) -> ReleaseReport:
        """Close the GPU driver and keep it closed; see ``DriverRelease.release``."""
        return await self.driver_release.release(owner, options, ended)

    def take_gpu(self) -> bool:
        """Use the GPU driver again; returns whether it was released."""
        return self.driver_release.take()

    async def reload(self) -> None:
        """Reload the configuration; leases stay active. Raises ConfigInvalid, and then nothing changes."""
        self.driver_use.note_request()
        await self._reloading.reload()

    # -- observations --------------------------------------------------------------------------------------------

    def record_unit(self, unit: UnitState) -> None:
        """Record the state of a unit, from a systemd signal or a query."""
        self._units.record(unit)

    async def watch_units(self) -> None:
        """Subscribe to the units of all consumers and of all leases bound to a unit. Raises UnitFailed."""
        await self._units.watch_all()
