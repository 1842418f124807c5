"""Carries out one eviction of a consumer, and verifies its effect on VRAM."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from gpumand.arbiter.deferred_unloads import POLL_SEC, DeferredUnload, GivesWay, has_begun, never_gives_way
from gpumand.arbiter.state import ArbiterState
from gpumand.domain import budget, remainder, shared_units
from gpumand.domain.consumer import STOPPING, ConsumerSpec, EvictionMethod, UnitActivity
from gpumand.domain.device import Devices, Sample, parse_devices
from gpumand.domain.events import EvictionReport
from gpumand.domain.eviction_check import SLACK_MIB, EvictionCheck, MultiDeviceEvictionCheck
from gpumand.domain.orphans import describe_orphans
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import IN_VRAM, ConsumerState
from gpumand.ports import ConsumerRoutes, RouteFailed, UnitFailed, UnitManager

log = logging.getLogger(__name__)

FREED_POLL_SEC = 0.075
"""Seconds between VRAM readings during an eviction: short enough that a load starts within 100 ms of free memory."""

RECHECK_AFTER_FAILURE_SEC = 0.5
"""Seconds for which VRAM is read after an eviction method failed; a process that died frees its memory in that time."""

RESIDUAL_REST_SEC = 1.0
"""Seconds for which memory within the tolerated residual must not change after an unload by route: then it stays."""

STARTED_AGAIN = frozenset({"reactivated", "restarted"})
"""Reasons of UnitFailed: the unit or container was stopped, and runs again."""

NO_METHOD = "has no unload route, no unit and no container"


class Actions:
    """Evicts single consumers. Holds no state of its own; the caller decides and owns the devices."""

    def __init__(self, state: ArbiterState, units: UnitManager, routes: ConsumerRoutes) -> None:
        self._state = state
        self._units = units
        self._routes = routes

    async def evict(
        self,
        report: EvictionReport,
        is_enough_free: Callable[[], bool],
        why_not: Callable[[], Awaitable[str]],
        *,
        respect_busy: bool = True,
        gives_way: GivesWay = never_gives_way,
    ) -> EvictionReport:
        """Take a consumer's VRAM back by its methods in order, until readings show it free on all of its devices.

        The caller must have taken a reading just before: the eviction is measured against those samples.

        Args:
            report: the consumer, its devices, the trigger and the reason; also the method, if only one may be used.
            is_enough_free: whether the memory needed is free; then the rest is not waited for.
            why_not: called before each further method; why the consumer must not be evicted any more, "" when it may.
            respect_busy: wait for requests that an unload may wait for; not so for a forced eviction.
            gives_way: for how many jobs an unload that frees nothing is to be given up; 0 = it is waited for.

        Returns:
            The completed report. ``error`` is "" when the memory was observed to become free.
        """
        began, check = self._state.clock.monotonic(), self._new_check(report)
        expected_mib = check.expected_mib if check.is_known else None
        report = replace(report, expected_mib=expected_mib, error=f"{report.consumer} {NO_METHOD}; configure one")
        methods = [one for one in self._state.consumer(report.consumer).usable_methods if report.method in ("", one)]
        self._state.set_residency(report.consumer, Residency.UNLOADING)
        self._state.publish_changes()
        for method in methods:
            if report.tried and (why := await why_not()):
                report = replace(report, error=f"{report.error}; no other method was tried: {why}")
                break
            waits = gives_way if respect_busy else None
            report = await self._try_method(report, method, check, is_enough_free, waits)
            if not report.error or report.deferred_by:
                break
            log.warning("evicting %s by %s: %s", report.consumer, method, report.error)
        return replace(report, duration_usec=int((self._state.clock.monotonic() - began) * 1e6))

    def _new_check(self, report: EvictionReport) -> MultiDeviceEvictionCheck:
        """Record the memory before the eviction, on each device, as the reference for what becomes free."""
        devices = parse_devices(report.device) or (0,)
        spec = self._state.consumer(report.consumer).spec
        method = EvictionMethod(report.method) if report.method else None
        return MultiDeviceEvictionCheck(
            spec, {device: self._new_check_on(report.consumer, device, method) for device in devices}
        )

    def _new_check_on(self, name: str, device: int, method: EvictionMethod | None) -> EvictionCheck:
        consumer, before = self._state.consumer(name), self._state.device(device)
        view = self._state.view()
        available_mib = budget.unexplained_mib(view, device) if device in view.devices else 0
        beyond_mib = budget.beyond_named_mib(before, consumer, available_mib)
        unnamed_mib = self._unnamed_mib(consumer, before)
        expected_mib = budget.freeable_mib(before, consumer, unnamed_mib, method, beyond_mib)
        residual_mib = budget.residual_mib(consumer, method)
        held_mib, tolerated_mib = budget.held_mib(before, consumer), budget.tolerated_mib(consumer)
        is_open = held_mib is None and not consumer.footprint_known and (unnamed_mib or 0) > SLACK_MIB
        return EvictionCheck(consumer.spec, before, held_mib, expected_mib, residual_mib, tolerated_mib, is_open)

    def _unnamed_mib(self, consumer: ConsumerState, before: Sample) -> int | None:
        """Unnamed memory that may be the victim's; of a merely reserved one only what has grown since its claim."""
        unnamed_mib = budget.unattributed_mib(before)
        if unnamed_mib is None or not consumer.is_merely_reserved or before.index not in consumer.devices:
            return unnamed_mib
        return min(unnamed_mib, budget.shown_mib(self._state.view(), before.index, consumer.name))

    async def _try_method(
        self,
        report: EvictionReport,
        method: EvictionMethod,
        check: MultiDeviceEvictionCheck,
        is_enough_free: Callable[[], bool],
        gives_way: GivesWay | None,
    ) -> EvictionReport:
        report = replace(report, method=str(method), tried=(*report.tried, str(method)), error="")
        try:
            if method in STOPPING:
                self._prepare_stop(check.spec.name)
            await self._call_method(check.spec, method)
        except (RouteFailed, UnitFailed) as failed:
            if isinstance(failed, UnitFailed) and failed.reason in STARTED_AGAIN and not check.spec.lazy:
                return self._started_again(report, failed)
            return await self._check_after_failure(replace(report, error=str(failed)), check)
        return await self._wait_until_freed(report, check, is_enough_free, gives_way)

    def _started_again(self, report: EvictionReport, failed: UnitFailed) -> EvictionReport:
        """Its memory may be free at this moment, but the new run is about to take it again, so it stays reserved."""
        devices = self._state.consumer(report.consumer).devices or parse_devices(report.device)
        self._state.ledger.claim(report.consumer, devices, self._state.clock.monotonic(), for_start=True)
        return replace(report, error=str(failed))

    async def _check_after_failure(self, report: EvictionReport, check: MultiDeviceEvictionCheck) -> EvictionReport:
        """Read VRAM for a short time after a failed method: a consumer that crashed during it frees its memory too."""
        deadline = self._state.clock.monotonic() + RECHECK_AFTER_FAILURE_SEC
        while check.can_be_measured:
            await self._state.sample(self._concerned_devices(check))
            now = self._current_samples(check)
            freed_mib = check.freed_mib(now)
            if freed_mib and check.settled(now):
                return replace(report, freed_mib=freed_mib, error="")
            if self._state.clock.monotonic() >= deadline:
                break
            await self._state.clock.sleep(FREED_POLL_SEC)
        return report

    def _prepare_stop(self, name: str) -> None:
        """Take all consumers of a shared unit or container out of use before its stop. Raises UnitFailed."""
        ledger = self._state.ledger
        state = self._state.consumer(name)
        blocker = shared_units.stop_blocker(ledger.consumers, state, self._state.clock.monotonic(), ledger.sharing)
        if blocker is not None:
            raise UnitFailed(f"{blocker.reason}, so that it was not stopped", "shared")
        sharing = shared_units.others_in_unit(ledger.consumers, state, ledger.sharing)
        others = [one.name for one in sharing if one.residency in IN_VRAM]
        jobs = {id(job): job for job in ledger.jobs.values() if name in (job.consumer, *job.evicting)}
        for job in jobs.values() if others else ():
            ledger.replace_job(replace(job, evicting=(*job.evicting, *others)))
        for other in others:
            self._state.set_residency(other, Residency.UNLOADING)

    def finish_stop(self, report: EvictionReport) -> None:
        """After a unit or container was stopped: set the residency of the other consumers in it."""
        if report.method not in STOPPING:
            return
        ledger, state = self._state.ledger, self._state.consumer(report.consumer)
        for other in shared_units.others_in_unit(ledger.consumers, state, ledger.sharing):
            if other.residency is Residency.UNLOADING:
                residency = Residency.UNKNOWN if report.error else Residency.UNLOADED
                self._state.set_residency(other.name, residency, unit_moved=False)

    async def _call_method(self, spec: ConsumerSpec, method: EvictionMethod) -> None:
        is_stopping = False
        try:
            if method is EvictionMethod.HTTP:
                await self._routes.unload(spec)
            else:
                await self._units.stop(spec.stopped_by(method), spec.stop_timeout_sec)
        except UnitFailed as failed:
            is_stopping = self._state.consumer(spec.name).unit_activity == UnitActivity.DEACTIVATING
            # Its job may still be queued, and then it is carried out later.
            self._state.ledger.update(spec.name, unload_pending=failed.reason == "timeout")
            raise
        finally:
            # Also after an error or a cancellation: the unit may have changed state, and states observed before this
            # moment are outdated; except that of a unit that was seen to stop, and has not ended in time.
            changed_at = -math.inf if is_stopping else self._state.clock.monotonic()
            self._state.ledger.update(spec.name, unit_changed_at=changed_at)

    async def _wait_until_freed(
        self,
        report: EvictionReport,
        check: MultiDeviceEvictionCheck,
        is_enough_free: Callable[[], bool],
        gives_way: GivesWay | None,
    ) -> EvictionReport:
        """Wait until readings show the memory free, for ``settle_timeout_sec``, or longer for running requests.

        ``gives_way`` None = running requests are not waited for.
        """
        clock = self._state.clock
        waited_sec = self._state.settings.scheduler.settle_timeout_sec
        deadline = clock.monotonic() + waited_sec
        if not check.can_be_measured:
            # VRAM could not be read before the eviction either, so there is nothing to compare with. The method
            # reported success, and the report says that this is not verified.
            return replace(report, freed_mib=0, verified=False)
        last_mib, since, began = None, clock.monotonic(), clock.monotonic()
        unload = DeferredUnload(self._state, self._routes, report, gives_way or never_gives_way)
        while True:
            await self._state.sample(self._concerned_devices(check))
            now = self._current_samples(check)
            freed_mib = check.freed_mib(now)
            if freed_mib != last_mib:
                last_mib, since = freed_mib, clock.monotonic()
            has_rested = clock.monotonic() - since >= RESIDUAL_REST_SEC
            done = self._success(report, check, now, is_enough_free, has_rested=has_rested)
            if done is not None:
                return done
            is_late = clock.monotonic() >= deadline
            jobs = await unload.jobs_in_the_way(freed_mib, is_late=is_late)
            if jobs or (
                is_late and (gives_way is None or not await unload.is_waited_for(freed_mib, check.expected_mib))
            ):
                put_off = unload.describe(jobs, freed_mib, check.expected_mib) if jobs else ""
                given_up = replace(report, error=put_off, deferred_by=jobs)
                ended = await self._given_up(given_up, check, is_enough_free, waited_sec, is_late=is_late)
                if ended is not None:
                    return ended
            waited_sec = round(clock.monotonic() - began) if is_late else waited_sec
            await clock.sleep(POLL_SEC if is_late else FREED_POLL_SEC)

    def _success(
        self,
        report: EvictionReport,
        check: MultiDeviceEvictionCheck,
        now: Mapping[int, Sample],
        is_enough_free: Callable[[], bool],
        *,
        has_rested: bool,
    ) -> EvictionReport | None:
        """The report of an eviction that has succeeded by these samples; None while they do not show it."""
        freed_mib = check.freed_mib(now)
        if report.method in STOPPING and check.proves_nothing(now):
            # The processes have ended, as the service manager or the engine confirms, and that frees their memory.
            return replace(report, freed_mib=0, verified=False)
        if freed_mib is None:
            return None
        if check.settled(now) or (freed_mib > 0 and is_enough_free()):
            return replace(report, freed_mib=freed_mib)
        if has_rested and check.is_open and self._is_proof(report, freed_mib):
            return replace(report, freed_mib=freed_mib, verified=freed_mib > SLACK_MIB)
        return replace(report, freed_mib=freed_mib) if has_rested and self._is_residual(report, check) else None

    async def _given_up(
        self,
        report: EvictionReport,
        check: MultiDeviceEvictionCheck,
        is_enough_free: Callable[[], bool],
        waited_sec: float,
        *,
        is_late: bool,
    ) -> EvictionReport | None:
        """The report of an attempt that is given up, for jobs or without; None if its memory begins to become free.

        Asking for the jobs took time. Another victim would be evicted, or the unit stopped, for memory that became
        free meanwhile.
        """
        await self._state.sample(self._concerned_devices(check))
        now = self._current_samples(check)
        freed_mib = check.freed_mib(now)
        if freed_mib is not None and (check.settled(now) or (freed_mib > 0 and is_enough_free())):
            return replace(report, freed_mib=freed_mib, error="", deferred_by=0)
        if not is_late and has_begun(freed_mib):
            return None
        if not report.deferred_by:
            return self._timed_out(report, check, freed_mib, waited_sec)
        return replace(report, freed_mib=freed_mib or 0)

    @staticmethod
    def _is_proof(report: EvictionReport, freed_mib: int) -> bool:
        """Whether a victim of unknown size has been evicted: its processes have ended, or memory became free."""
        return report.method in STOPPING or freed_mib > SLACK_MIB

    def _concerned_devices(self, check: MultiDeviceEvictionCheck) -> Devices:
        """The devices to read while an eviction settles: the victim's, and those of the job that it makes room for."""
        name, jobs = check.spec.name, self._state.ledger.jobs
        of_job = (device for device, job in jobs.items() if name in (job.consumer, *job.evicting))
        return tuple(sorted({*check.checks, *of_job}))

    def _is_residual(self, report: EvictionReport, check: MultiDeviceEvictionCheck) -> bool:
        """Whether what the victim still holds is what stays after an unload by route: no failure of the eviction."""
        return report.method == EvictionMethod.HTTP and check.only_residual_left(self._current_samples(check))

    def _current_samples(self, check: MultiDeviceEvictionCheck) -> dict[int, Sample]:
        return {device: self._state.device(device) for device in check.checks}

    def _timed_out(
        self, report: EvictionReport, check: MultiDeviceEvictionCheck, freed_mib: int | None, waited_sec: float
    ) -> EvictionReport:
        now = self._current_samples(check)
        left = remainder.describe(check, now)
        is_released = (check.released_by_processes(now) and not left) or self._is_residual(report, check)
        if freed_mib is not None and is_released:
            return replace(report, freed_mib=freed_mib)
        if left:
            result = f"its processes have ended, but {left}"
        elif freed_mib is not None and check.is_open:
            result = "no memory became free (how much it holds is unknown)"
        elif freed_mib is not None:
            result = f"{freed_mib} of {check.expected_mib} MiB became free"
        elif check.proves_nothing(now):
            result = "no reading can show that it released its memory (the card sleeps or uses host RAM)"
        else:
            result = "VRAM could not be read"
        what = "" if freed_mib is None else remainder.describe_users(check, now)
        error = f"{result} {'after' if left else 'within'} {waited_sec:g} s{what}{self._orphans_after(report)}"
        freed_mib = 0 if left else freed_mib
        return replace(report, freed_mib=freed_mib or 0, error=error)

    def _orphans_after(self, report: EvictionReport) -> str:
        """Name the processes that a stopped unit has left behind; they count as foreign from now on."""
        spec = self._state.consumer(report.consumer).spec
        if report.method not in STOPPING or self._may_stop_more(report, spec):
            return ""
        left = self._state.mark_orphans(report.consumer)
        return f": {describe_orphans(spec.stopped_by(EvictionMethod(report.method)), left)}" if left else ""

    @staticmethod
    def _may_stop_more(report: EvictionReport, spec: ConsumerSpec) -> bool:
        """Whether a method is left that ends processes: a container lives on when its ``docker run`` is killed."""
        return any(method in STOPPING and str(method) not in report.tried for method in spec.evict)


def residency_after(report: EvictionReport, consumer: ConsumerState) -> Residency:
    """The residency of a victim after an eviction attempt; later observations may correct it."""
    if report.error:
        # A stop that takes longer than its limit goes on, for example while a process cannot be interrupted.
        is_stopping = report.method in STOPPING and consumer.unit_activity == UnitActivity.DEACTIVATING
        return Residency.UNLOADING if is_stopping else Residency.UNKNOWN
    parks = consumer.spec.parks and report.method == EvictionMethod.HTTP
    return Residency.PARKED if parks else Residency.UNLOADED
