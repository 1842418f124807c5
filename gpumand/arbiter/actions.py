"""How a consumer is loaded, and how its VRAM is taken back: one of each, carried out and verified."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from gpumand.arbiter.state import ArbiterState
from gpumand.domain import budget
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Residency, UnitActivity
from gpumand.domain.device import Sample, devices_of
from gpumand.domain.errors import LoadFailed
from gpumand.domain.events import EvictionReport
from gpumand.domain.eviction_check import EvictionCheck, MultiDeviceEvictionCheck
from gpumand.ports import ConsumerRoutes, RouteFailed, UnitFailed, UnitManager

log = logging.getLogger(__name__)

SETTLE_POLL_SEC = 0.075
"""How often VRAM is read while memory is to become free: often enough for a load to start within 100 ms of it."""

AFTER_FAILURE_SEC = 0.5
"""How long the figures are looked at after a method has failed; a process that died frees its memory within that."""

HEALTH_POLL_SEC = 0.25

ROUTE_GRACE_SEC = 5.0
"""How long a consumer that is no unit may refuse connections after its load route was called (KoboldCpp restarts)."""


class Actions:
    """Evicting and loading, one consumer at a time. Holds no state of its own."""

    def __init__(self, arbiter_state: ArbiterState, units: UnitManager, routes: ConsumerRoutes) -> None:
        self._books = arbiter_state
        self._units = units
        self._routes = routes

    # -- evicting ------------------------------------------------------------------------------------------------

    async def evict(
        self, report: EvictionReport, enough: Callable[[], bool], why_not: Callable[[], Awaitable[str]]
    ) -> EvictionReport:
        """Take a consumer's VRAM back by its methods in order, until the figures show it on every device it is on.

        These must have been sampled just now: those samples are what the eviction is measured against.

        Args:
            report: what is known beforehand: consumer, devices, trigger, why, and the method when it is to be just one.
            enough: whether what was needed is free by now; then there is nothing more to wait for.
            why_not: why it must not be evicted any more, asked between two methods; "" when it may.

        Returns:
            The report, filled in. ``error`` is "" when the memory was seen free.
        """
        began, settling = self._books.clock.monotonic(), self._measure(report)
        expected_mib = settling.expected_mib if settling.is_known else None
        report = replace(report, expected_mib=expected_mib, error=f"{report.consumer} has no unload route and no unit")
        methods = [one for one in self._books.state(report.consumer).methods if report.method in ("", one)]
        self._books.set_residency(report.consumer, Residency.UNLOADING)
        self._books.tell()
        for method in methods:
            if report.tried and (why := await why_not()):
                report = replace(report, error=f"{report.error}; not evicted: {why}")
                break
            report = await self._try(report, method, settling, enough)
            if not report.error:
                break
            log.warning("evicting %s by %s: %s", report.consumer, method, report.error)
        return replace(report, duration_usec=int((self._books.clock.monotonic() - began) * 1e6))

    def _measure(self, report: EvictionReport) -> MultiDeviceEvictionCheck:
        """What the eviction is measured against, as things are before it."""
        devices = devices_of(report.device) or (0,)
        spec = self._books.state(report.consumer).spec
        method = EvictionMethod(report.method) if report.method else None
        return MultiDeviceEvictionCheck(
            spec, {device: self._measure_on(report.consumer, device, method) for device in devices}
        )

    def _measure_on(self, name: str, device: int, method: EvictionMethod | None) -> EvictionCheck:
        state, before = self._books.state(name), self._books.device(device)
        expected_mib = budget.yield_mib(before, state, budget.unattributed_mib(before), method)
        stays_mib = budget.stays_mib(state, method)
        return EvictionCheck(state.spec, before, budget.held_mib(before, state), expected_mib, stays_mib)

    async def _try(
        self,
        report: EvictionReport,
        method: EvictionMethod,
        settling: MultiDeviceEvictionCheck,
        enough: Callable[[], bool],
    ) -> EvictionReport:
        report = replace(report, method=str(method), tried=(*report.tried, str(method)), error="")
        try:
            await self._call_method(settling.spec, method)
        except (RouteFailed, UnitFailed) as failed:
            return await self._look_after_failure(replace(report, error=str(failed)), settling)
        return await self._settle(report, settling, enough)

    async def _look_after_failure(self, report: EvictionReport, settling: MultiDeviceEvictionCheck) -> EvictionReport:
        """A consumer that died of its eviction gives its memory back all the same, a moment later."""
        deadline = self._books.clock.monotonic() + AFTER_FAILURE_SEC
        while settling.can_be_measured:
            await self._books.sample()
            now = self._seen(settling)
            freed_mib = settling.freed_mib(now)
            if freed_mib and settling.settled(now):
                return replace(report, freed_mib=freed_mib, error="")
            if self._books.clock.monotonic() >= deadline:
                break
            await self._books.clock.sleep(SETTLE_POLL_SEC)
        return report

    async def _call_method(self, spec: ConsumerSpec, method: EvictionMethod) -> None:
        try:
            if method is EvictionMethod.HTTP:
                await self._routes.unload(spec)
            else:
                await self._units.stop(spec.unit, spec.stop_timeout_sec)
        finally:
            self._books.ledger.update(spec.name, unit_moved_at=self._books.clock.monotonic())

    async def _settle(
        self, report: EvictionReport, settling: MultiDeviceEvictionCheck, enough: Callable[[], bool]
    ) -> EvictionReport:
        """Wait until the figures show it, or until time is up."""
        clock = self._books.clock
        deadline = clock.monotonic() + self._books.settings.scheduler.settle_timeout_sec
        if not settling.can_be_measured:
            # Nothing could be read even beforehand: the method's own word is all there is, and the report says so.
            return replace(report, freed_mib=0, verified=False)
        while True:
            await self._books.sample()
            now = self._seen(settling)
            freed_mib = settling.freed_mib(now)
            if freed_mib is not None and (settling.settled(now) or (freed_mib > 0 and enough())):
                return replace(report, freed_mib=freed_mib)
            if clock.monotonic() >= deadline:
                return self._timed_out(report, settling, freed_mib)
            await clock.sleep(SETTLE_POLL_SEC)

    def _seen(self, settling: MultiDeviceEvictionCheck) -> dict[int, Sample]:
        return {device: self._books.device(device) for device in settling.parts}

    def _timed_out(
        self, report: EvictionReport, settling: MultiDeviceEvictionCheck, freed_mib: int | None
    ) -> EvictionReport:
        if freed_mib is not None and settling.gone_by_own_figure(self._seen(settling)):
            return replace(report, freed_mib=freed_mib)
        waited_sec = self._books.settings.scheduler.settle_timeout_sec
        seen = (
            "nothing could be read" if freed_mib is None else f"{freed_mib} of {settling.expected_mib} MiB became free"
        )
        return replace(report, freed_mib=freed_mib or 0, error=f"{seen} within {waited_sec:g} s")

    # -- loading -------------------------------------------------------------------------------------------------

    async def load(self, spec: ConsumerSpec, is_used: Callable[[], bool]) -> bool:
        """Bring a consumer up: start its unit, call its load route, wait for its health.

        Args:
            spec: which one.
            is_used: whether somebody holds a lease on it by now; then a load that fails leaves it as it is.

        Returns:
            Whether its unit had to be started for it.

        Raises:
            LoadFailed: with the unit's result and its last log lines, or what the route said.
        """
        deadline = self._books.clock.monotonic() + spec.load_timeout_sec
        started = False
        try:
            started = await self._needs_start(spec)
            if started:
                await self._units.start(spec.unit, spec.load_timeout_sec)
            if spec.load is not None:
                await self._call_load_route(spec, started, deadline)
            if spec.health is not None:
                await self._wait_healthy(spec, started, deadline)
            await self._books.sample()  # so that the figures contain it before its reservation is thought over
            await self._confirm(spec)
        except (UnitFailed, RouteFailed) as failed:
            message = str(failed) if isinstance(failed, UnitFailed) else f"{spec.name}: {failed}"
            message = await self._with_log(spec, message)
            if not is_used():
                await self._clean_up(spec, started)
            raise LoadFailed(message) from failed
        return started

    async def _clean_up(self, spec: ConsumerSpec, started: bool) -> None:
        """Leave nothing half-loaded behind, and nothing stopped that ran before; what goes wrong is only logged."""
        try:
            if started:
                await self._units.stop(spec.unit, spec.stop_timeout_sec)
            elif spec.load is not None and spec.unload is not None:
                await self._routes.unload(spec)
        except (UnitFailed, RouteFailed) as failed:
            log.info("cleaning up after the failed load of %s: %s", spec.name, failed)

    async def _needs_start(self, spec: ConsumerSpec) -> bool:
        """Whether there is a unit that does not run."""
        if not spec.unit:
            return False
        return (await self._units.state(spec.unit)).activity is not UnitActivity.ACTIVE

    async def _call_load_route(self, spec: ConsumerSpec, started: bool, deadline: float) -> None:
        """Call the load route; a server whose unit was just started may not listen yet."""
        while True:
            try:
                return await self._routes.load(spec)
            except RouteFailed as failed:
                if not (failed.refused and started) or self._books.clock.monotonic() >= deadline:
                    raise
            await self._check_unit(spec)
            await self._books.clock.sleep(HEALTH_POLL_SEC)

    async def _wait_healthy(self, spec: ConsumerSpec, started: bool, deadline: float) -> None:
        clock = self._books.clock
        gone_until = clock.monotonic() + (ROUTE_GRACE_SEC if spec.load is not None else 0.0)
        while True:
            health = await self._routes.probe(spec)
            if health.reachable and (health.loaded is not False or spec.lazy):
                return
            is_hopeless = health.gone and not spec.unit and clock.monotonic() >= gone_until
            if is_hopeless or clock.monotonic() >= deadline:
                raise RouteFailed(health.error or f"not loaded after {spec.load_timeout_sec:g} s")
            await self._check_unit(spec)
            await clock.sleep(HEALTH_POLL_SEC)

    async def _check_unit(self, spec: ConsumerSpec) -> None:
        """Waiting for the health of a unit that has died is waiting in vain."""
        if not spec.unit:
            return
        state = await self._units.state(spec.unit)
        if state.activity in (UnitActivity.FAILED, UnitActivity.INACTIVE):
            raise UnitFailed(f"{spec.unit} ended while {spec.name} was loading ({state.result or state.activity})")

    async def _confirm(self, spec: ConsumerSpec) -> None:
        """A plain service is active from its first moment on, and may die in the next. Raises UnitFailed."""
        try:
            await self._check_unit(spec)
        except UnitFailed as failed:
            if failed.reason != "unavailable":  # not being able to ask is no proof
                raise

    async def _with_log(self, spec: ConsumerSpec, message: str) -> str:
        lines = await self._units.failure_lines(spec.unit) if spec.unit else ()
        return message + (f"; last lines: {' | '.join(lines)}" if lines else "")


def residency_after(report: EvictionReport, spec: ConsumerSpec) -> Residency:
    """What a victim is after an eviction was tried; facts correct it when they come in."""
    if report.error:
        return Residency.UNKNOWN
    return Residency.PARKED if spec.parks and report.method == EvictionMethod.HTTP else Residency.UNLOADED
