"""Watches systemd units for state changes, including those that gpumand did not cause."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

from gpumand.bus.connection import BusError, BusLost, Signal, Subscription
from gpumand.domain.consumer import UnitState
from gpumand.ports import UnitFailed
from gpumand.service_manager.manager import Systemd1

log = logging.getLogger(__name__)

RETRY_SEC = 5.0


class WatchedUnit:
    """One watched unit: a match rule for its object, and a task that reads its state after a signal.

    Any number of signals leads to one read. Signals that arrive during a read lead to one more.
    """

    def __init__(self, systemd: Systemd1, unit: str, changed: Callable[[UnitState], None]) -> None:
        self.changed = changed
        self._systemd = systemd
        self._unit = unit
        self._path = ""
        self._subscription: Subscription | None = None
        self._last: UnitState | None = None
        self._dirty = asyncio.Event()
        self._relocate = True
        self._task = asyncio.ensure_future(self._run())

    def refresh(self, *, relocate: bool = False) -> None:
        """Read the unit again; with ``relocate`` also look up its object path, since a reload can change aliases."""
        self._relocate = self._relocate or relocate
        self._dirty.set()

    async def close(self) -> None:
        """Stop watching."""
        self._task.cancel()
        try:
            # wait() instead of awaiting the task: a CancelledError of the task could not be distinguished from a
            # cancellation of this method.
            await asyncio.wait([self._task])
        finally:
            if self._subscription is not None:
                await self._subscription.cancel()

    async def _run(self) -> None:
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._read()
            except (UnitFailed, BusError, BusLost) as error:
                log.debug("%s cannot be watched at the moment, retrying: %s", self._unit, error)
                await self._wait_for_retry()
            except Exception:
                # An unexpected error must not end this task: the unit would silently no longer be watched.
                log.exception("%s cannot be watched at the moment, retrying", self._unit)
                await self._wait_for_retry()

    async def _wait_for_retry(self) -> None:
        """Wait RETRY_SEC, or less if a signal arrives."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SEC):
                await self._dirty.wait()
        self.refresh(relocate=True)

    async def _read(self) -> None:
        """Read the unit; the match rule is added before, so that no change in between is missed."""
        if self._relocate:
            # Cleared first, since refresh() may set it again meanwhile. After a failure the retry sets it.
            self._relocate = False
            await self._locate()
        state = (await self._systemd.read(self._unit)).state
        if state != self._last:
            self._last = state
            self._notify(state)

    async def _locate(self) -> None:
        path = await self._systemd.unit_path(self._unit)
        if path == self._path and self._subscription is not None:
            return
        # The new rule is added before the old one is removed, so that no signal is missed.
        former = self._subscription
        self._subscription = await self._systemd.listen_to_unit(path, self._on_changed)
        self._path = path
        if former is not None:
            await former.cancel()

    def _on_changed(self, signal: Signal) -> None:
        self.refresh()

    def _notify(self, state: UnitState) -> None:
        try:
            self.changed(state)
        except Exception:
            log.exception("handling a state change of %s failed", self._unit)


class UnitWatcher:
    """All watched units."""

    def __init__(self, systemd: Systemd1) -> None:
        self._systemd = systemd
        self._units: dict[str, WatchedUnit] = {}
        self._changing = asyncio.Lock()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Watch exactly these units; units that are watched already stay watched without a gap."""
        # Two overlapping calls must not mix: close() below waits, and the second call would see a half-changed set.
        async with self._changing:
            wanted = set(units)
            for unit in [unit for unit in self._units if unit not in wanted]:
                await self._units.pop(unit).close()
            for unit in sorted(wanted):
                self._add(unit, changed)

    def refresh(self) -> None:
        """Read all units again, after systemd was reloaded, restarted or started."""
        for unit in self._units.values():
            unit.refresh(relocate=True)

    async def close(self) -> None:
        """Stop watching."""
        await self.watch((), lambda state: None)

    def _add(self, unit: str, changed: Callable[[UnitState], None]) -> None:
        if unit in self._units:
            self._units[unit].changed = changed
        else:
            self._units[unit] = WatchedUnit(self._systemd, unit, changed)
