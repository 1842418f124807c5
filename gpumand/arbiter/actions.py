"""Carries out one load or one eviction of a consumer, and verifies its effect on VRAM."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gpumand.arbiter.state import ArbiterState
from gpumand.domain import budget
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Residency, UnitActivity
from gpumand.domain.device import Sample, parse_devices
from gpumand.domain.errors import LoadFailed
from gpumand.domain.events import EvictionReport
from gpumand.domain.eviction_check import EvictionCheck, MultiDeviceEvictionCheck
from gpumand.domain.view import ConsumerState
from gpumand.ports import ConsumerRoutes, RouteFailed, UnitFailed, UnitManager

log = logging.getLogger(__name__)

FREED_POLL_SEC = 0.075
"""Seconds between VRAM readings during an eviction: short enough that a load starts within 100 ms of free memory."""

RECHECK_AFTER_FAILURE_SEC = 0.5
"""Seconds for which VRAM is read after an eviction method failed; a process that died frees its memory in that time."""

RESIDUAL_REST_SEC = 1.0
"""Seconds for which memory within the tolerated residual must not change after an unload by route: then it stays."""

HEALTH_POLL_SEC = 0.25

ROUTE_GRACE_SEC = 5.0
"""Seconds for which a consumer without a unit may refuse connections after its load route was called: KoboldCpp
restarts its server to change the model."""


class Actions:
    """Evicts and loads single consumers. Holds no state of its own; the caller decides and owns the devices."""

    def __init__(self, state: ArbiterState, units: UnitManager, routes: ConsumerRoutes) -> None:
        self._state = state
        self._units = units
        self._routes = routes

    # -- evicting ------------------------------------------------------------------------------------------------

    async def evict(
        self, report: EvictionReport, is_enough_free: Callable[[], bool], why_not: Callable[[], Awaitable[str]]
    ) -> EvictionReport:
        """Take a consumer's VRAM back by its methods in order, until readings show it free on all of its devices.

        The caller must have taken a reading just before: the eviction is measured against those samples.

        Args:
            report: the consumer, its devices, the trigger and the reason; also the method, if only one may be used.
            is_enough_free: whether the memory needed is free; then the rest is not waited for.
            why_not: called before each further method; why the consumer must not be evicted any more, "" when it may.

        Returns:
            The completed report. ``error`` is "" when the memory was observed to become free.
        """
        began, check = self._state.clock.monotonic(), self._new_check(report)
        expected_mib = check.expected_mib if check.is_known else None
        report = replace(
            report, expected_mib=expected_mib, error=f"{report.consumer} has no unload route and no unit; configure one"
        )
        methods = [one for one in self._state.consumer(report.consumer).usable_methods if report.method in ("", one)]
        self._state.set_residency(report.consumer, Residency.UNLOADING)
        self._state.publish_changes()
        for method in methods:
            if report.tried and (why := await why_not()):
                report = replace(report, error=f"{report.error}; no other method was tried: {why}")
                break
            report = await self._try_method(report, method, check, is_enough_free)
            if not report.error:
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
        expected_mib = budget.freeable_mib(before, consumer, self._unnamed_mib(consumer, before), method)
        residual_mib = budget.residual_mib(consumer, method)
        held_mib, tolerated_mib = budget.held_mib(before, consumer), budget.tolerated_mib(consumer)
        return EvictionCheck(consumer.spec, before, held_mib, expected_mib, residual_mib, tolerated_mib)

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
    ) -> EvictionReport:
        report = replace(report, method=str(method), tried=(*report.tried, str(method)), error="")
        try:
            await self._call_method(check.spec, method)
        except (RouteFailed, UnitFailed) as failed:
            return await self._check_after_failure(replace(report, error=str(failed)), check)
        return await self._wait_until_freed(report, check, is_enough_free)

    async def _check_after_failure(self, report: EvictionReport, check: MultiDeviceEvictionCheck) -> EvictionReport:
        """Read VRAM for a short time after a failed method: a consumer that crashed during it frees its memory too."""
        deadline = self._state.clock.monotonic() + RECHECK_AFTER_FAILURE_SEC
        while check.can_be_measured:
            await self._state.sample()
            now = self._current_samples(check)
            freed_mib = check.freed_mib(now)
            if freed_mib and check.settled(now):
                return replace(report, freed_mib=freed_mib, error="")
            if self._state.clock.monotonic() >= deadline:
                break
            await self._state.clock.sleep(FREED_POLL_SEC)
        return report

    async def _call_method(self, spec: ConsumerSpec, method: EvictionMethod) -> None:
        try:
            if method is EvictionMethod.HTTP:
                await self._routes.unload(spec)
            else:
                await self._units.stop(spec.unit, spec.stop_timeout_sec)
        finally:
            # Also after an error or a cancellation: the unit may have changed state, and states observed before this
            # moment are outdated.
            self._state.ledger.update(spec.name, unit_changed_at=self._state.clock.monotonic())

    async def _wait_until_freed(
        self, report: EvictionReport, check: MultiDeviceEvictionCheck, is_enough_free: Callable[[], bool]
    ) -> EvictionReport:
        """Wait until readings show the memory free, for at most ``settle_timeout_sec``."""
        clock = self._state.clock
        deadline = clock.monotonic() + self._state.settings.scheduler.settle_timeout_sec
        if not check.can_be_measured:
            # VRAM could not be read before the eviction either, so there is nothing to compare with. The method
            # reported success, and the report says that this is not verified.
            return replace(report, freed_mib=0, verified=False)
        last_mib, since = None, clock.monotonic()
        while True:
            await self._state.sample()
            now = self._current_samples(check)
            freed_mib = check.freed_mib(now)
            if freed_mib is not None and (check.settled(now) or (freed_mib > 0 and is_enough_free())):
                return replace(report, freed_mib=freed_mib)
            if freed_mib != last_mib:
                last_mib, since = freed_mib, clock.monotonic()
            has_rested = clock.monotonic() - since >= RESIDUAL_REST_SEC
            if freed_mib is not None and has_rested and self._is_residual(report, check):
                return replace(report, freed_mib=freed_mib)
            if clock.monotonic() >= deadline:
                return self._timed_out(report, check, freed_mib)
            await clock.sleep(FREED_POLL_SEC)

    def _is_residual(self, report: EvictionReport, check: MultiDeviceEvictionCheck) -> bool:
        """Whether what the victim still holds is what stays after an unload by route: no failure of the eviction."""
        return report.method == EvictionMethod.HTTP and check.only_residual_left(self._current_samples(check))

    def _current_samples(self, check: MultiDeviceEvictionCheck) -> dict[int, Sample]:
        return {device: self._state.device(device) for device in check.checks}

    def _timed_out(
        self, report: EvictionReport, check: MultiDeviceEvictionCheck, freed_mib: int | None
    ) -> EvictionReport:
        is_released = check.released_by_processes(self._current_samples(check)) or self._is_residual(report, check)
        if freed_mib is not None and is_released:
            return replace(report, freed_mib=freed_mib)
        waited_sec = self._state.settings.scheduler.settle_timeout_sec
        known = freed_mib is not None
        result = f"{freed_mib} of {check.expected_mib} MiB became free" if known else "VRAM could not be read"
        return replace(report, freed_mib=freed_mib or 0, error=f"{result} within {waited_sec:g} s")

    # -- loading -------------------------------------------------------------------------------------------------

    async def load(self, spec: ConsumerSpec, is_leased: Callable[[], bool]) -> bool:
        """Load a consumer: start its unit, call its load route, and wait for its health check to succeed.

        Args:
            spec: the consumer.
            is_used: whether a lease on it has been granted meanwhile; then nothing is stopped after a failure.

        Returns:
            Whether its unit had to be started.

        Raises:
            LoadFailed: with the unit's result and last log lines, or the answer of the route.
        """
        deadline = self._state.clock.monotonic() + spec.load_timeout_sec
        started = False
        try:
            started = await self._needs_start(spec)
            if started:
                await self._units.start(spec.unit, spec.load_timeout_sec)
            if spec.load is not None:
                await self._call_load_route(spec, started, deadline)
            if spec.health is not None:
                await self._wait_healthy(spec, started, deadline)
            # Read VRAM before the load counts as done: afterwards the reservation of the footprint may end, and the
            # memory must show in a reading by then.
            await self._state.sample()
            await self._confirm_running(spec)
        except (UnitFailed, RouteFailed) as failed:
            message = str(failed) if isinstance(failed, UnitFailed) else f"{spec.name}: {failed}"
            message = await self._append_log_lines(spec, message)
            if not is_leased():
                await self._clean_up(spec, started)
            raise LoadFailed(message) from failed
        return started

    async def _clean_up(self, spec: ConsumerSpec, started: bool) -> None:
        """Undo a failed load: stop the unit if it was started for it, otherwise unload. Errors are only logged."""
        try:
            if started:
                await self._units.stop(spec.unit, spec.stop_timeout_sec)
            elif spec.load is not None and spec.unload is not None:
                await self._routes.unload(spec)
        except (UnitFailed, RouteFailed) as failed:
            log.info("cleaning up after the failed load of %s failed too: %s", spec.name, failed)

    async def _needs_start(self, spec: ConsumerSpec) -> bool:
        """Whether the consumer has a unit that is not active."""
        if not spec.unit:
            return False
        return (await self._units.state(spec.unit)).activity is not UnitActivity.ACTIVE

    async def _call_load_route(self, spec: ConsumerSpec, started: bool, deadline: float) -> None:
        """Call the load route; a server whose unit was just started may not listen yet."""
        while True:
            try:
                return await self._routes.load(spec)
            except RouteFailed as failed:
                if not (failed.refused and started) or self._state.clock.monotonic() >= deadline:
                    raise
            await self._check_unit(spec)
            await self._state.clock.sleep(HEALTH_POLL_SEC)

    async def _wait_healthy(self, spec: ConsumerSpec, started: bool, deadline: float) -> None:
        clock = self._state.clock
        may_refuse_until = clock.monotonic() + (ROUTE_GRACE_SEC if spec.load is not None else 0.0)
        while True:
            health = await self._routes.probe_health(spec)
            if health.reachable and (health.loaded is not False or spec.lazy):
                return
            is_hopeless = health.refused and not spec.unit and clock.monotonic() >= may_refuse_until
            if is_hopeless or clock.monotonic() >= deadline:
                raise RouteFailed(health.error or f"not loaded after {spec.load_timeout_sec:g} s")
            await self._check_unit(spec)
            await clock.sleep(HEALTH_POLL_SEC)

    async def _check_unit(self, spec: ConsumerSpec) -> None:
        """Stop waiting for a health check when the unit has ended. Raises UnitFailed."""
        if not spec.unit:
            return
        unit = await self._units.state(spec.unit)
        if unit.activity in (UnitActivity.FAILED, UnitActivity.INACTIVE):
            raise UnitFailed(f"{spec.unit} ended while {spec.name} was loading ({unit.result or unit.activity})")

    async def _confirm_running(self, spec: ConsumerSpec) -> None:
        """Check once more that the unit runs. Raises UnitFailed.

        systemd reports a plain service as active as soon as its process exists, and that may end a moment later.
        """
        try:
            await self._check_unit(spec)
        except UnitFailed as failed:
            if failed.reason != "unavailable":  # systemd cannot be asked, which does not prove that the unit has ended
                raise

    async def _append_log_lines(self, spec: ConsumerSpec, message: str) -> str:
        lines = await self._units.failure_lines(spec.unit) if spec.unit else ()
        return message + (f"; last lines: {' | '.join(lines)}" if lines else "")


def residency_after(report: EvictionReport, spec: ConsumerSpec) -> Residency:
    """The residency of a victim after an eviction attempt; later observations may correct it."""
    if report.error:
        return Residency.UNKNOWN
    return Residency.PARKED if spec.parks and report.method == EvictionMethod.HTTP else Residency.UNLOADED
