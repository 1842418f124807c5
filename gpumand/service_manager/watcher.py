"""Watches systemd units for state changes, including those that gpumand did not cause."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence

from gpumand.bus.connection import BusError, BusLost, Signal
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import UnitFailed
from gpumand.service_manager.manager import MAX_LISTED, ListedUnit, Systemd1
from gpumand.service_manager.unit_names import is_unit_name
from gpumand.service_manager.unit_signals import UnitListener, UnitSignals, expected_path

log = logging.getLogger(__name__)

RETRY_SEC = 5.0


class WatchedUnit:
    """One watched unit: a listener for its object, and a task that reads its state after a signal.

    Any number of signals leads to one read. Signals that arrive during a read lead to one more.
    """

    def __init__(
        self, systemd: Systemd1, signals: UnitSignals, unit: str, changed: Callable[[UnitState], None]
    ) -> None:
        self.changed = changed
        self._systemd = systemd
        self._signals = signals
        self._unit = unit
        self._listener: UnitListener | None = None
        self._last: UnitState | None = None
        self._dirty = asyncio.Event()
        self._relocate = False
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def path(self) -> str:
        """The object path whose signals it receives; "" if it is unknown."""
        return self._listener.path if self._listener is not None else ""

    @property
    def is_reading(self) -> bool:
        """Whether its state is being read."""
        return self._task is not None and not self._task.done()

    @property
    def is_outdated(self) -> bool:
        """Whether it receives its signals by the rule for all units although it may have its own."""
        return self._listener is not None and self._signals.is_outdated(self._listener)

    def refresh(self, *, relocate: bool = False) -> None:
        """Read the unit again; with ``relocate`` also look up its object path, since a reload can change aliases."""
        self._relocate = self._relocate or relocate
        self._dirty.set()
        if not self.is_reading and not self._is_closed:
            self._task = asyncio.ensure_future(self._run())

    async def listen_to(self, path: str) -> None:
        """Receive the signals of an object path. Raises BusError, BusLost."""
        if self._listener is not None and self._listener.path == path and not self.is_outdated:
            return
        # The new listener is added before the old one is removed, so that no signal is missed.
        added = await self._signals.listen(path, self._on_changed)
        # During the await another call may have added one, or the watch may have been closed.
        former, self._listener = self._listener, added
        if former is not None:
            await former.cancel()
        if self._is_closed:
            await added.cancel()

    def record(self, listed: ListedUnit | None) -> None:
        """Use its row in a list that was made while its signals were received; None if it is not in the list."""
        state = listed.state_at_rest() if listed is not None and listed.path == self.path else None
        if state is None or self.is_reading:
            self.refresh(relocate=listed is None or listed.path != self.path)
        elif self._last is None or _shown(self._last) != _shown(state):
            self._last = state
            self._notify(state)

    async def close(self) -> None:
        """Stop watching."""
        self._is_closed = True
        try:
            if self._task is not None and not self._task.done():
                self._task.cancel()
                # wait() instead of awaiting the task: a CancelledError of the task could not be distinguished from a
                # cancellation of this method.
                await asyncio.wait([self._task])
        finally:
            if self._listener is not None:
                await self._listener.cancel()

    async def _run(self) -> None:
        while self._dirty.is_set():
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
        """Read the unit; the listener is added before, so that no change in between is missed."""
        if self._relocate:
            # Cleared first, since refresh() may set it again meanwhile. After a failure the retry sets it.
            self._relocate = False
            await self.listen_to(await self._systemd.unit_path(self._unit))
        state = (await self._systemd.read(self._unit)).state
        if state != self._last:
            self._last = state
            self._notify(state)

    def _on_changed(self, signal: Signal) -> None:
        self.refresh()

    def _notify(self, state: UnitState) -> None:
        try:
            self.changed(state)
        except Exception:
            log.exception("handling a state change of %s failed", self._unit)


class UnitWatcher:
    """All watched units. A few are read one by one, many are listed first (see ``state_reports``)."""

    def __init__(self, systemd: Systemd1) -> None:
        self._systemd = systemd
        self._signals = UnitSignals(systemd)
        self._units: dict[str, WatchedUnit] = {}
        self._changing = asyncio.Lock()
        self._unlisted: set[str] = set()
        self._list_again = asyncio.Event()
        self._listing: asyncio.Task[None] | None = None

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        """Watch exactly these units; units that are watched already stay watched without a gap."""
        # Two overlapping calls must not mix: close() below waits, and the second call would see a half-changed set.
        async with self._changing:
            wanted = set(units)
            self._signals.expect(len(wanted))
            for unit in [unit for unit in self._units if unit not in wanted]:
                await self._units.pop(unit).close()
            for watched in self._units.values():
                watched.changed = changed
            added = wanted - self._units.keys()
            for unit in sorted(added):
                self._units[unit] = WatchedUnit(self._systemd, self._signals, unit, changed)
            self._read(added | {unit for unit, watched in self._units.items() if watched.is_outdated})

    def refresh(self) -> None:
        """Read all units again, after systemd was reloaded, restarted or started."""
        self._list_again.set()
        self._read(self._units)

    async def close(self) -> None:
        """Stop watching."""
        if self._listing is not None:
            self._listing.cancel()
            await asyncio.wait([self._listing])
            self._listing = None
        await self.watch((), lambda state: None)

    def _read(self, units: Iterable[str]) -> None:
        if not self._signals.is_sharing:
            for watched in [self._units[unit] for unit in units if unit in self._units]:
                watched.refresh(relocate=True)
            return
        self._unlisted.update(units)
        if self._unlisted and (self._listing is None or self._listing.done()):
            self._listing = asyncio.ensure_future(self._list_all())

    async def _list_all(self) -> None:
        while self._unlisted:
            self._list_again.clear()
            units = sorted(self._unlisted)[:MAX_LISTED]
            self._unlisted.difference_update(units)
            try:
                await self._list(units)
            except (UnitFailed, BusError, BusLost) as error:
                log.debug("units cannot be watched at the moment, retrying: %s", error)
                await self._wait_for_retry(units)
            except Exception:
                log.exception("units cannot be watched at the moment, retrying")
                await self._wait_for_retry(units)

    async def _wait_for_retry(self, units: Iterable[str]) -> None:
        """Wait RETRY_SEC, or less if systemd is reloaded or restarted."""
        self._unlisted.update(units)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SEC):
                await self._list_again.wait()

    async def _list(self, units: Sequence[str]) -> None:
        """List units after their signals are received, so that no change in between is missed."""
        if not self._signals.is_sharing:  # there are few of them now
            self._read(units)
            return
        await self._signals.share()
        listable: dict[str, WatchedUnit] = {}
        for unit in units:
            watched = self._units.get(unit)
            if watched is not None and (watched.is_reading or not is_unit_name(unit)):
                watched.refresh(relocate=True)
            elif watched is not None:
                await watched.listen_to(expected_path(unit))
                listable[unit] = watched
        listed = await self._systemd.list_units(listable)
        for unit, watched in listable.items():
            if self._units.get(unit) is watched:
                watched.record(listed.get(unit))


def _shown(state: UnitState) -> tuple[UnitActivity, str]:
    """What a list shows of a unit at rest."""
    return state.activity, state.load_state
