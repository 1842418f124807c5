"""Units and containers together as the port UnitManager: a container stands where a unit could stand.

The arbiter starts, stops and watches the service of a consumer, whichever of the two it is. Its name tells them apart,
see ``gpumand.domain.container.service_of``. Engines announce no changes without a connection that stays open, so the
state of watched containers is read periodically.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from gpumand.containers.client import describe_end
from gpumand.containers.run_start import monotonic_start
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.domain.container import ContainerState, container_of, service_of
from gpumand.ports import Clock, ContainerFailed, Containers, UnitFailed, UnitManager

log = logging.getLogger(__name__)

WATCH_SEC = 1.0
"""Seconds between looks at the main processes of watched containers, which cost nothing."""

RUNNING_SEC, STOPPED_SEC = 60.0, 10.0
"""Seconds between requests for the state of a container: while its main process is known to run, and otherwise. An
engine is asked rarely, since Podman starts a process for that and logs every request."""

STOP_SIGNAL_CODES = frozenset({0, 130, 137, 143})
"""Exit codes of a container that ended or was stopped: 128 and the signal INT, KILL or TERM."""

_BY_STATUS = {
    "restarting": UnitActivity.ACTIVATING,
    "removing": UnitActivity.DEACTIVATING,
    "stopping": UnitActivity.DEACTIVATING,
}
_SEPARATOR = " "


class LoggedContainers(Containers, Protocol):
    """Containers whose output can be read too."""

    async def log_lines(self, name: str, since: str = "", until: str = "") -> tuple[str, ...]:
        """Return the last lines that a container wrote between two times. Raises ContainerFailed."""


class UnitsAndContainers:
    """The port UnitManager for services of both kinds.

    Args:
        units: the units of systemd.
        containers: the containers.
        clock: the daemon's clock.
        is_alive: whether a process with this pid exists.
    """

    def __init__(
        self,
        units: UnitManager,
        containers: LoggedContainers,
        clock: Clock,
        is_alive: Callable[[int], bool] = lambda pid: Path(f"/proc/{pid}").exists(),
    ) -> None:
        self._units = units
        self._containers = containers
        self._clock = clock
        self._is_alive = is_alive
        self._watched: frozenset[str] = frozenset()
        self._watching: asyncio.Task[None] | None = None
        self._last: dict[str, UnitState] = {}
        self._pids: dict[str, int] = {}
        self._due_at: dict[str, float] = {}
        self._failing: set[str] = set()

    async def state(self, unit: str) -> UnitState:
        """Return the current state of a unit or container. Raises UnitFailed."""
        if not (name := container_of(unit)):
            return await self._units.state(unit)
        try:
            state = await self._containers.inspect(name)
            self._pids[unit] = state.pid if state.running else 0
            return unit_state(name, state, self._clock)
        except ContainerFailed as failed:
            if failed.reason == "not-found":
                return UnitState(unit, UnitActivity.INACTIVE, "not-found")
            raise _unit_failed(failed) from failed

    async def report_states(
        self, units: Iterable[str], report: Callable[[UnitState], None]
    ) -> Mapping[str, UnitFailed]:
        """Report the current state of each unit and container; returns why the others are unknown."""
        services = sorted(set(units))
        containers = [one for one in services if container_of(one)]
        of_units, of_containers = await asyncio.gather(
            self._units.report_states([one for one in services if not container_of(one)], report),
            asyncio.gather(*(self._report_state(one, report) for one in containers)),
        )
        failures = zip(containers, of_containers, strict=True)
        return {**of_units, **{container: failed for container, failed in failures if failed is not None}}

    async def start(self, unit: str, timeout_sec: float) -> None:
        """Start a unit or container. Raises UnitFailed."""
        if not (name := container_of(unit)):
            return await self._units.start(unit, timeout_sec)
        try:
            await self._containers.start(name, timeout_sec)
        except ContainerFailed as failed:
            raise _unit_failed(failed) from failed

    async def stop(self, unit: str, timeout_sec: float) -> None:
        """Stop a unit or container. Raises UnitFailed."""
        if not (name := container_of(unit)):
            return await self._units.stop(unit, timeout_sec)
        try:
            await self._containers.stop(name, timeout_sec)
        except ContainerFailed as failed:
            raise _unit_failed(failed) from failed

    async def unit_of_pid(self, pid: int) -> str:
        """Return the unit that a process runs in, or ""."""
        return await self._units.unit_of_pid(pid)

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        """Return the last log lines of a run, by default the current or last one."""
        if not (name := container_of(unit)):
            return await self._units.failure_lines(unit, invocation_id)
        try:
            now = await self._containers.inspect(name)
            since = invocation_id.partition(_SEPARATOR)[2] or now.started_at
            # Docker keeps the output of all runs together, so a run ends where the next one begins.
            until = now.started_at if now.run_id != invocation_id and invocation_id else ""
            return await self._containers.log_lines(name, since, until)
        except ContainerFailed as failed:
            log.info("the output of container %s cannot be read: %s", name, failed)
            return ()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Report every change of these services. Raises UnitFailed where systemd cannot be reached."""
        services = frozenset(units)
        await self._watch_containers(frozenset(one for one in services if container_of(one)), changed)
        await self._units.watch(sorted(one for one in services if not container_of(one)), changed)

    async def close(self) -> None:
        """Stop watching containers; the units are closed by their owner."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None

    async def _report_state(self, container: str, report: Callable[[UnitState], None]) -> UnitFailed | None:
        try:
            report(await self.state(container))
        except UnitFailed as failed:
            return failed
        return None

    async def _watch_containers(self, services: frozenset[str], changed: Callable[[UnitState], None]) -> None:
        if services == self._watched and self._watching is not None and not self._watching.done():
            return
        await self.close()
        self._watched = services
        self._last = {service: state for service, state in self._last.items() if service in services}
        self._due_at.clear()
        if services:
            self._watching = asyncio.ensure_future(self._report_changes(sorted(services), changed))

    async def _report_changes(self, services: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        while True:
            for service in services:
                if self._is_due(service):
                    await self._report(service, changed)
            await self._clock.sleep(WATCH_SEC)

    def _is_due(self, service: str) -> bool:
        """Whether its state must be read: after a while, and at once when its main process has ended."""
        pid = self._pids.get(service, 0)
        has_ended = pid > 0 and not self._is_alive(pid)
        return has_ended or self._clock.monotonic() >= self._due_at.get(service, float("-inf"))

    async def _report(self, service: str, changed: Callable[[UnitState], None]) -> None:
        self._pids.pop(service, None)
        try:
            state = await self.state(service)
        except UnitFailed as failed:
            self._due_at[service] = self._clock.monotonic() + STOPPED_SEC
            if service not in self._failing:
                log.warning("the state of %s cannot be read: %s", service, failed)
            self._failing.add(service)
            return
        self._failing.discard(service)
        pause_sec = RUNNING_SEC if self._pids.get(service) else STOPPED_SEC
        self._due_at[service] = self._clock.monotonic() + pause_sec
        if state != self._last.get(service):
            self._last[service] = state
            with contextlib.suppress(Exception):
                changed(state)


def unit_state(name: str, state: ContainerState, clock: Clock) -> UnitState:
    """The state of a container as that of a unit, under the name that the configuration uses."""
    service = service_of(name)
    activity = _BY_STATUS.get(state.status)
    if activity is None and state.running:
        activity = UnitActivity.ACTIVE
    elif activity is None:
        has_failed = state.oom_killed or bool(state.error) or (state.exit_code or 0) not in STOP_SIGNAL_CODES
        activity = UnitActivity.FAILED if has_failed else UnitActivity.INACTIVE
    result = "" if activity in (UnitActivity.ACTIVE, UnitActivity.ACTIVATING) else describe_end(state)
    active_since = monotonic_start(state.started_at, clock) if activity is UnitActivity.ACTIVE else None
    return UnitState(service, activity, "loaded", result, state.run_id, state.restarts, active_since)


def _unit_failed(failed: ContainerFailed) -> UnitFailed:
    return UnitFailed(str(failed), failed.reason)
