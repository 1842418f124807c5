"""Evicting by hand and for idleness: the same verified eviction, for nobody's request."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.jobs import Jobs
from gpumand.arbiter.leases import Leases
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import ended
from gpumand.arbiter.work_gate import WorkGate
from gpumand.domain import host_ram, parking
from gpumand.domain.busyness import in_words, is_busy
from gpumand.domain.consumer import EvictionMethod, Residency
from gpumand.domain.device import Devices, devices_of, devices_text
from gpumand.domain.errors import Busy, EvictionFailed, InvalidArgs, ShuttingDown, TimedOut
from gpumand.domain.events import EvictionReport
from gpumand.domain.lease import LeaseEnd
from gpumand.domain.request import Outcome
from gpumand.domain.view import ConsumerState, Job
from gpumand.domain.wording import on_devices

log = logging.getLogger(__name__)


class ManualOperations:
    """Evictions that no plan asked for."""

    def __init__(
        self,
        arbiter_state: ArbiterState,
        facts: Reconciler,
        scheduler: Scheduler,
        jobs: Jobs,
        leases: Leases,
        gate: WorkGate,
        busyness: BusyProbes,
    ) -> None:
        self._books, self._facts, self._desk, self._jobs, self._leases = arbiter_state, facts, scheduler, jobs, leases
        self._gate, self._busyness = gate, busyness

    async def evict(self, name: str, *, force: bool, timeout_sec: float, method: str = "") -> Outcome:
        """Evict a consumer.

        Args:
            name: which one.
            force: also when it is leased (its leases are revoked, whatever comes of the eviction), pinned or busy.
            timeout_sec: how long to wait for the device to be free of other work.
            method: the only one to be used; "" = the consumer's, in its order.

        Raises:
            Busy, TimedOut, EvictionFailed, ShuttingDown, InvalidArgs (not one of the consumer's methods).
        """
        if method and method not in self._books.state(name).spec.evict:
            known = " and ".join(self._books.state(name).spec.evict) or "none at all"
            raise InvalidArgs(f"{name} is not evicted by {method}; its methods are {known}")
        began = self._books.clock.monotonic()
        device = devices_text(await self._devices_when_free(name, timeout_sec, force=force))
        if not self._holds_anything(self._books.state(name), method):
            return Outcome(name, device)
        report = EvictionReport(name, device, 0, method, trigger="manual", why="asked for by hand")
        report = await self._evict(report, lambda: self._take(name, force=force), heeds_work=not force, forced=force)
        if report.error:
            raise EvictionFailed(f"{name}: {report.error}")
        duration_usec = int((self._books.clock.monotonic() - began) * 1e6)
        return Outcome(name, device, True, (name,), report.method, report.freed_mib, duration_usec)

    def _take(self, name: str, *, force: bool) -> None:
        """Decided at the last moment: it may go. Raises Busy, EvictionFailed."""
        self._check(self._books.state(name), force=force)
        self._leases.end_all(lambda lease: lease.consumer == name, LeaseEnd.REVOKED)

    async def _devices_when_free(self, name: str, timeout_sec: float, *, force: bool) -> Devices:
        clock = self._books.clock
        deadline = clock.monotonic() + timeout_sec
        while True:
            state = self._books.state(name)
            devices = state.devices or (min(self._books.ledger.devices),)
            job, loading = self._job_on(devices), "" if force else self._loading_on(devices, besides=name)
            if self._gate.refused:
                raise ShuttingDown(self._gate.refused)
            is_free = job is None and not loading and state.residency is not Residency.UNLOADING
            if is_free and not self._gate.held:
                return devices
            if clock.monotonic() >= deadline:
                doing = f"{loading} is loading on {on_devices(devices)}" if loading else f"{name} is being unloaded"
                doing = f"{on_devices(devices)} is busy with {job.consumer}" if job else doing
                doing = self._gate.held or doing
                raise TimedOut(f"waited {timeout_sec:g} s: {doing}") if timeout_sec > 0 else Busy(doing)
            with self._desk.hand(devices):
                await ended(clock, self._desk.moved(), deadline - clock.monotonic())

    def _job_on(self, devices: Devices) -> Job | None:
        """What is being done on any of these."""
        jobs = self._books.ledger.jobs
        return next((jobs[device] for device in devices if device in jobs), None)

    def _loading_on(self, devices: Devices, besides: str) -> str:
        """Who is loading on any of these; nobody may have asked us for it, so that there is no job of it."""
        loading = (one.name for one in self._books.view().loading if not set(devices).isdisjoint(one.devices))
        return next((name for name in loading if name != besides), "")

    def _is_quiet(self, devices: Devices) -> bool:
        return self._job_on(devices) is None and not self._loading_on(devices, besides="")

    def _holds_anything(self, state: ConsumerState, method: str) -> bool:
        if state.residency is Residency.PARKED and (not state.methods or method == EvictionMethod.HTTP):
            return False  # it has given what its route takes
        if state.claimed or state.residency not in (Residency.UNLOADED, Residency.FAILED):
            return True
        return any(
            (sample.held_by(state.name) or 0) > state.spec.residual_mib
            for sample in self._books.ledger.devices.values()
        )

    @staticmethod
    def _check(state: ConsumerState, *, force: bool) -> None:
        if not state.spec.evict:
            raise EvictionFailed(f"{state.name} has no unload route and no unit: nothing can take its VRAM back")
        if force:
            return
        if state.leases:
            raise Busy(f"{state.name} is leased; the option force revokes its leases")
        if state.pinned:
            raise Busy(f"{state.name} is pinned; unpin it or use the option force")
        if is_busy(state):
            raise Busy(f"{state.name} is {in_words(state)}; the option force evicts it all the same")
        if state.residency is Residency.LOADING:
            raise Busy(f"{state.name} is loading")

    async def _evict(
        self, report: EvictionReport, take: Callable[[], None], *, heeds_work: bool, forced: bool = False
    ) -> EvictionReport:
        """Evict on a device that is free right now. No await before the job stands; ``take`` has the last word."""
        name, devices = report.consumer, devices_of(report.device)
        self._books.ledger.begin(Job(devices, name, evicting=(name,)))
        try:
            if heeds_work:
                await self._busyness.ask(name)
            await self._books.sample()
            take()
            report = report if report.method or forced else self._by_what_there_is_room_for(report)
            self._note_parking(report, devices)
        except BaseException:
            self._let_go(devices)
            raise
        # Whoever asked may leave from here on: of half an eviction nobody would know how far it has come.
        return await self._desk.beside.to_its_end(self._carry_out(report, devices, heeds_work))

    async def _carry_out(self, report: EvictionReport, devices: Devices, heeds_work: bool) -> EvictionReport:
        try:
            return await self._jobs.evict(report, lambda: False, partial(self._why_not, report.consumer, heeds_work))
        finally:
            self._let_go(devices)

    def _let_go(self, devices: Devices) -> None:
        self._jobs.end(devices)
        self._facts.conclude_all()
        self._desk.step()

    def _by_what_there_is_room_for(self, report: EvictionReport) -> EvictionReport:
        """By its methods in order, or where host RAM has no room to park it in, by the next. Raises EvictionFailed."""
        state = self._books.state(report.consumer)
        method = host_ram.method_now(self._books.view(), state)
        if method is None and state.methods:
            raise EvictionFailed(f"{state.name}: {parking.NO_ROOM}; the option force parks it all the same")
        if method is None:
            return report
        # One that is not to be parked is not parked as a second try either.
        all_may = method is state.methods[0] and (method is EvictionMethod.HTTP or not state.spec.parks)
        return report if all_may else replace(report, method=str(method))

    def _note_parking(self, report: EvictionReport, devices: Devices) -> None:
        """Speak for the host RAM that it takes."""
        parks = host_ram.would_park(self._books.state(report.consumer)) and report.method in ("", EvictionMethod.HTTP)
        job = self._books.ledger.jobs[devices[0]]
        self._books.ledger.replace_job(replace(job, parking=(report.consumer,) if parks else ()))

    async def _why_not(self, name: str, heeds_work: bool) -> str:
        """Asked before each method: it may have begun to work after the first."""
        return await self._busyness.why_spared(name) if heeds_work else ""

    def evict_idle(self) -> None:
        """Begin to evict who has not worked for as long as its ``idle_timeout_sec`` says."""
        for state in list(self._books.ledger.consumers.values()) if self._gate.is_open else ():
            devices = state.devices
            if devices and self._is_idle_too_long(state) and self._is_quiet(devices):
                self._desk.beside.spawn(self._evict_for_idleness(state.name, devices))
                return  # the job begins with the task's first step; the others have their turn at the next look

    def _is_idle_too_long(self, state: ConsumerState) -> bool:
        limit_sec = state.spec.idle_timeout_sec
        may_go = state.residency is Residency.RESIDENT and not state.claimed and not state.pinned and state.spec.evict
        if limit_sec <= 0 or not may_go or is_busy(state):
            return False
        unused_sec = (self._books.clock.realtime_usec() - state.last_used_usec) / 1e6
        return self._books.clock.monotonic() - state.idle_since >= limit_sec and unused_sec >= limit_sec

    async def _evict_for_idleness(self, name: str, devices: Devices) -> None:
        def take() -> None:
            state = self._books.ledger.consumers.get(name)
            if state is None or not self._is_idle_too_long(state):
                raise Busy(f"{name} is idle no longer")

        if name not in self._books.ledger.consumers or not self._is_quiet(devices):
            return
        why = f"not used for {self._books.state(name).spec.idle_timeout_sec:g} s"
        report = EvictionReport(name, devices_text(devices), 0, "", trigger="idle", why=why)
        with contextlib.suppress(Busy):
            try:
                report = await self._evict(report, take, heeds_work=True)
            except EvictionFailed as failed:
                report = replace(report, error=failed.message)
            if report.error and name in self._books.ledger.consumers:
                self._books.ledger.update(name, idle_since=self._books.clock.monotonic())
