"""Signals about changes of units: a match rule for each of a few units, and one rule for all if there are many.

A bus grants a limited number of match rules to a connection, 512 on a system bus (``max_match_rules_per_connection`` of
dbus-daemon), and each client that is watched takes one, too. The rule for all units also delivers changes of units that
are not watched, such as sessions and timers. The connection drops these before they are parsed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gpumand.bus.connection import BusError, Signal, Subscription
from gpumand.bus.names import PROPERTIES
from gpumand.bus.object_paths import escape_label
from gpumand.service_manager.failures import FREEDESKTOP_ERROR
from gpumand.service_manager.manager import UNIT_PATH_PREFIX, Systemd1

log = logging.getLogger(__name__)

MAX_OWN_RULES = 64
"""With at most this many units each one has a rule of its own. The clients have 400 (see bus/client_presence.py)."""

LIMITS_EXCEEDED = FREEDESKTOP_ERROR + "LimitsExceeded"


class UnitListener:
    """A subscription to the changes of one unit.

    Attributes:
        path: object path of the unit.
        callback: called for each change.
        own_rule: the rule of this unit; None if the rule for all units covers it.
    """

    def __init__(self, path: str, callback: Callable[[Signal], None], signals: UnitSignals) -> None:
        self.path = path
        self.callback = callback
        self.own_rule: Subscription | None = None
        self._signals = signals

    async def cancel(self) -> None:
        """Stop the callbacks."""
        await self._signals.remove(self)


class UnitSignals:
    """The match rules for the signals of units.

    Args:
        systemd: the manager of the units.

    Attributes:
        is_sharing: whether further units share the rule for all units.
    """

    def __init__(self, systemd: Systemd1) -> None:
        self._systemd = systemd
        self._listeners: dict[str, list[UnitListener]] = {}
        self._shared: Subscription | None = None
        self._sharers = 0
        self._freed: list[UnitListener] = []
        self._is_limited = self._is_refused = False
        self._changing = asyncio.Lock()
        self.is_sharing = False

    def expect(self, count: int) -> None:
        """Decide from the number of units whether they share a rule."""
        self.is_sharing = self._is_limited or count > MAX_OWN_RULES

    def is_outdated(self, listener: UnitListener) -> bool:
        """Whether a listener uses the rule for all units although it may have its own, or has neither."""
        return listener.own_rule is None and (not self.is_sharing or self._shared is None)

    async def share(self) -> None:
        """Add the rule for all units if it is missing. Raises BusError, BusLost."""
        if self._shared is not None:
            return
        async with self._changing:
            if self._shared is None:
                self._shared = await self._add_shared_rule()
                self._is_refused = False
                self._read_freed()

    async def listen(self, path: str, callback: Callable[[Signal], None]) -> UnitListener:
        """Call back for each change of a unit; does not suspend if the rule for all units covers it.

        Raises:
            BusError: the bus refuses the rule for one unit and the one for all.
            BusLost: the connection is gone.
        """
        listener = UnitListener(path, callback, self)
        # Before the rule: the connection drops signals of all other paths.
        self._listeners.setdefault(path, []).append(listener)
        self._sharers += 1
        try:
            if not self.is_sharing:
                await self._add_own_rule(listener)
            if listener.own_rule is None:
                await self.share()
            await self._drop_unused_rule()
        except BaseException:
            await self.remove(listener)
            raise
        return listener

    async def remove(self, listener: UnitListener) -> None:
        """Remove a listener, and the rule for all units with the last one that uses it; harmless when repeated."""
        listeners = self._listeners.get(listener.path, [])
        if listener not in listeners:
            return
        listeners.remove(listener)
        if not listeners:
            del self._listeners[listener.path]
        if listener.own_rule is not None:
            await listener.own_rule.cancel()
        else:
            self._sharers -= 1
        await self._drop_unused_rule()

    async def _drop_unused_rule(self) -> None:
        """Remove the rule for all units if each one has its own."""
        if not self._sharers and not self.is_sharing and self._shared is not None:
            shared, self._shared = self._shared, None
            await self._systemd.stop_listening_to_all_units(shared)

    async def _add_shared_rule(self) -> Subscription:
        try:
            return await self._systemd.listen_to_all_units(self._on_changed, self._listeners)
        except BusError as error:
            if not await self._free_own_rules():
                self._report_refusal(error)
                raise
        return await self._add_shared_rule()

    async def _free_own_rules(self) -> bool:
        """Remove the rules of single units, which leaves room for the one for all; returns whether there were any."""
        owners = [one for listeners in self._listeners.values() for one in listeners if one.own_rule is not None]
        for listener in owners:
            own_rule, listener.own_rule = listener.own_rule, None
            self._sharers += 1
            self._freed.append(listener)
            if own_rule is not None:
                await own_rule.cancel()
        return bool(owners)

    def _read_freed(self) -> None:
        """Read the units that had no rule for a moment: a change in between was missed."""
        freed, self._freed = self._freed, []
        for listener in freed:
            if listener in self._listeners.get(listener.path, ()):
                listener.callback(Signal("", listener.path, PROPERTIES, "PropertiesChanged", ()))

    def _report_refusal(self, error: BusError) -> None:
        if not self._is_refused:
            log.warning(
                "the bus refuses a match rule for units (%s), so their changes are noticed only once a minute. "
                "Raise max_match_rules_per_connection in /etc/dbus-1/system-local.conf, and restart the host.",
                error.message,
            )
        self._is_refused = True

    async def _add_own_rule(self, listener: UnitListener) -> None:
        """Add a rule for one unit; if the bus grants no more of them, the rule for all units covers it."""
        try:
            listener.own_rule = await self._systemd.listen_to_unit(listener.path, listener.callback)
            self._sharers -= 1
        except BusError as error:
            if error.name != LIMITS_EXCEEDED:
                raise
            if not self._is_limited:
                log.warning("the bus refuses a match rule for one unit, so the changes of all are received: %s", error)
            self._is_limited = self.is_sharing = True

    def _on_changed(self, signal: Signal) -> None:
        for listener in tuple(self._listeners.get(signal.path, ())):
            if listener.own_rule is None:
                listener.callback(signal)


def expected_path(unit: str) -> str:
    """The object path of a unit that is no alias."""
    return UNIT_PATH_PREFIX + escape_label(unit)
