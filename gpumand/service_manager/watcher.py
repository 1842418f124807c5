"""Units that are watched, also for what happens to them behind our back."""

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
    """One unit: a match rule for its object, and a task that reads it anew when something was heard.

    However many signals come, one reading follows; signals that come while it is under way lead to one more.
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
        self._task = asyncio.ensure_future(self._follow())

    def refresh(self, *, relocate: bool = False) -> None:
        """Have it read again; with ``relocate`` also look where its object is now (aliases change on a reload)."""
        self._relocate = self._relocate or relocate
        self._dirty.set()

    async def close(self) -> None:
        """Stop watching."""
        self._task.cancel()
        try:
            # Not awaited itself: then its end and that of whoever stops watching could not be told apart.
            await asyncio.wait([self._task])
        finally:
            if self._subscription is not None:
                await self._subscription.cancel()

    async def _follow(self) -> None:
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            try:
                await self._read()
            except (UnitFailed, BusError, BusLost) as error:
                log.debug("%s is not watched at the moment: %s", self._unit, error)
                await self._wait_for_retry()
            except Exception:
                # What nobody thought of must not be the end of watching, which nobody would notice.
                log.exception("%s is not watched at the moment", self._unit)
                await self._wait_for_retry()

    async def _wait_for_retry(self) -> None:
        """Some seconds; less when systemd is heard of."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SEC):
                await self._dirty.wait()
        self.refresh(relocate=True)

    async def _read(self) -> None:
        """The match is there before the reading, so that no change falls between."""
        if self._relocate:
            self._relocate = False  # first: it may be asked for again meanwhile; a failure asks for it anyway
            await self._locate()
        state = (await self._systemd.read(self._unit)).state
        if state != self._last:
            self._last = state
            self._tell(state)

    async def _locate(self) -> None:
        path = await self._systemd.unit_path(self._unit)
        if path == self._path and self._subscription is not None:
            return
        former = self._subscription
        self._subscription = await self._systemd.listen_to_unit(path, self._on_changed)
        self._path = path
        if former is not None:
            await former.cancel()

    def _on_changed(self, signal: Signal) -> None:
        self.refresh()

    def _tell(self, state: UnitState) -> None:
        try:
            self.changed(state)
        except Exception:
            log.exception("a change of %s could not be dealt with", self._unit)


class UnitWatcher:
    """All units that are watched."""

    def __init__(self, systemd: Systemd1) -> None:
        self._systemd = systemd
        self._units: dict[str, WatchedUnit] = {}
        self._changing = asyncio.Lock()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Watch exactly these; those that were watched before stay so without a gap."""
        async with self._changing:
            wanted = set(units)
            for unit in [unit for unit in self._units if unit not in wanted]:
                await self._units.pop(unit).close()
            for unit in sorted(wanted):
                self._add(unit, changed)

    def refresh(self) -> None:
        """Read all again: systemd was reloaded, restarted, or appeared."""
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
