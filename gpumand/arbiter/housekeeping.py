"""The arbiter's periodic loops: VRAM readings, health and busy checks, unit states, expired leases, idle consumers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from gpumand.arbiter import telemetry
from gpumand.arbiter.arbiter import Arbiter
from gpumand.arbiter.loop_deadlines import LoopDeadlines
from gpumand.arbiter.timeouts import finished_within
from gpumand.domain.consumer import ConsumerSpec
from gpumand.ports import ConsumerRoutes, UnitFailed, UnitManager

log = logging.getLogger(__name__)

MAX_SLEEP_SEC = 30.0
"""CLOCK_REALTIME may jump (suspend, NTP), so no sleep until a point of it is longer than this."""

BUSY_PROBE_SEC = 1.0
"""Seconds between busy checks of a consumer while a request waits until it is idle."""

UNITS_RETRY_SEC = 10.0
"""Seconds until units are watched again after systemd could not be reached."""

UNITS_REFRESH_SEC = 60.0
"""Seconds between queries of all unit states, in case a signal of systemd was lost."""


class Housekeeping:
    """Runs the periodic loops. Call ``refresh_all`` once before the first grant, then ``run``."""

    def __init__(self, arbiter: Arbiter, units: UnitManager, routes: ConsumerRoutes) -> None:
        self._arbiter, self._units, self._routes = arbiter, units, routes
        self._state = arbiter.state
        self._probing: set[str] = set()
        self._refreshing: set[str] = set()
        self._deadlines = LoopDeadlines()

    def overdue_sec(self) -> Mapping[str, float]:
        """Seconds by which the next round of each loop is late, by loop; only loops that are late."""
        return self._deadlines.overdue_sec(self._state.clock.monotonic())

    async def refresh_all(self) -> None:
        """Read VRAM, all unit states and all health checks at once, then reconcile and run a queue pass."""
        await asyncio.gather(self._arbiter.driver_use.sample(), self._refresh_units(), self._probe_all())
        self._arbiter.reconciler.reconcile_all()
        self._arbiter.return_given_back()
        self._arbiter.scheduler.step()

    async def run(self) -> None:
        """Run all loops until cancelled."""
        loops = (
            self._sample_loop,
            self._probe_loop,
            self._busy_probe_loop,
            self._watch_units_loop,
            self._expire_leases_loop,
        )
        await asyncio.gather(*(self._run_forever(loop) for loop in loops))

    async def _run_forever(self, loop: Callable[[], Awaitable[None]]) -> None:
        """Start a loop again after an unexpected error, which is logged.

        Its deadline is not extended by that, so the watchdog notices a loop that fails every time.
        """
        while True:
            try:
                await loop()
            except Exception:
                log.exception("housekeeping: %s failed and is started again", loop.__name__)
                await self._state.clock.sleep(1.0)  # a loop that fails at once must not use all of the CPU

    def _due_in(self, seconds: float) -> float:
        return self._state.clock.monotonic() + seconds

    async def _sample_loop(self) -> None:
        self._deadlines.expect("VRAM readings", self._due_in(self._state.settings.gpu.sample_interval_sec))
        while True:
            await self._state.clock.sleep(self._state.settings.gpu.sample_interval_sec)
            is_read = await self._arbiter.driver_use.sample()
            # In this order: learning and idle evictions use the reconciled residencies, the queue pass uses them all.
            self._arbiter.reconciler.reconcile_all()
            if is_read:
                telemetry.record(self._state)
                self._arbiter.learning.observe_reading()
            self._arbiter.learning.save()
            self._arbiter.manual.evict_idle()
            self._arbiter.scheduler.step()
            await self._arbiter.leases.save_last_uses()
            self._deadlines.finished("VRAM readings", self._due_in(self._state.settings.gpu.sample_interval_sec))

    async def _probe_loop(self) -> None:
        self._deadlines.expect("health checks", self._due_in(self._state.settings.scheduler.health_interval_sec))
        while True:
            await self._state.clock.sleep(self._state.settings.scheduler.health_interval_sec)
            self._start_probes()
            for name in self._arbiter.reconciler.outdated_services() - self._refreshing:
                self._arbiter.scheduler.background.spawn(self._refresh_outdated(name))
            self._deadlines.finished("health checks", self._due_in(self._state.settings.scheduler.health_interval_sec))

    def _start_probes(self) -> None:
        for spec in self._probed():
            if spec.name not in self._probing:
                self._arbiter.scheduler.background.spawn(self._probe(spec))

    def _probed(self) -> list[ConsumerSpec]:
        return [spec for spec in self._state.settings.consumers.values() if spec.health]

    async def _probe_all(self) -> None:
        await asyncio.gather(*(self._probe(spec) for spec in self._probed()))

    async def _probe(self, spec: ConsumerSpec) -> None:
        """Send the health check of one consumer.

        The busy check is sent only while a request needs the consumer's memory: some servers take any question for
        work, which keeps them awake or wakes them.

        While one does not answer it gets no second check, and the others are checked at their usual interval.
        """
        # The time of the request, not of the answer: an eviction in between makes the answer outdated.
        requested_at = self._state.clock.monotonic()
        self._probing.add(spec.name)
        try:
            if spec.health is not None:
                health = await self._routes.probe_health(spec)
                self._arbiter.reconciler.record_health(spec.name, health, requested_at)
        finally:
            self._probing.discard(spec.name)
        self._arbiter.scheduler.step()

    async def _busy_probe_loop(self) -> None:
        """Check busy consumers often while requests wait until they are idle."""
        self._deadlines.expect("busy checks", self._due_in(self._busy_pause_sec()))
        while True:
            await self._state.clock.sleep(self._busy_pause_sec())
            self._arbiter.busy_probes.forget_outdated()
            for name in self._arbiter.busy_probes.awaited():
                if name not in self._probing:
                    self._arbiter.scheduler.background.spawn(self._probe_busy(name))
            self._deadlines.finished("busy checks", self._due_in(self._busy_pause_sec()))

    def _busy_pause_sec(self) -> float:
        # Without consumers nothing can be busy until a reload: an idle daemon is not woken every second for it.
        scheduler = self._state.settings.scheduler
        return BUSY_PROBE_SEC if self._state.settings.consumers else max(BUSY_PROBE_SEC, scheduler.health_interval_sec)

    async def _probe_busy(self, name: str) -> None:
        self._probing.add(name)
        try:
            await self._arbiter.busy_probes.probe(name)
        finally:
            self._probing.discard(name)
        self._arbiter.scheduler.step()

    async def _refresh_units(self) -> None:
        names = {spec.service for spec in self._state.settings.consumers.values() if spec.service}
        names |= self._arbiter.leases.leased_units()
        failures = await self._units.report_states(names, self._arbiter.record_unit)
        for name, failed in failures.items():
            log.info("unit %s: %s", name, failed)

    async def _refresh_unit(self, name: str) -> None:
        try:
            self._arbiter.record_unit(await self._units.state(name))
        except UnitFailed as failed:
            log.info("unit %s: %s", name, failed)

    async def _refresh_outdated(self, name: str) -> None:
        self._refreshing.add(name)
        try:
            await self._refresh_unit(name)
        finally:
            self._refreshing.discard(name)
        self._arbiter.scheduler.step()

    async def _watch_units_loop(self) -> None:
        """Subscribe to the relevant units, again whenever the set changes, and query their states periodically."""
        self._deadlines.expect("unit states", self._due_in(0.0))
        while True:
            # Cleared before the units are collected: a change during the awaits below sets it again.
            self._arbiter.units_changed.clear()
            try:
                await self._arbiter.watch_units()
                await self._refresh_units()
                pause_sec = UNITS_REFRESH_SEC
            except UnitFailed as failed:
                log.info("units cannot be watched, trying again in %g s: %s", UNITS_RETRY_SEC, failed)
                pause_sec = UNITS_RETRY_SEC
            self._deadlines.finished("unit states", self._due_in(pause_sec))
            if await finished_within(self._state.clock, self._arbiter.units_changed.wait(), pause_sec):
                self._start_probes()  # a reload may have added consumers

    async def _expire_leases_loop(self) -> None:
        leases = self._arbiter.leases
        self._deadlines.expect("lease expiry", self._due_in(0.0))
        while True:
            # Cleared before the next expiry is read, and set again by a lease that expires before it.
            leases.expiry_moved.clear()
            if leases.expire():
                self._arbiter.scheduler.step()
            next_usec = leases.next_expiry_usec()
            left_sec = (next_usec - self._state.clock.realtime_usec()) / 1e6 if next_usec else MAX_SLEEP_SEC
            pause_sec = min(left_sec, MAX_SLEEP_SEC)
            leases.next_expiry_check = self._due_in(pause_sec)
            self._deadlines.finished("lease expiry", leases.next_expiry_check)
            await finished_within(self._state.clock, leases.expiry_moved.wait(), pause_sec)
