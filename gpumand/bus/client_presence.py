"""Watches unique bus names and reports clients that leave the bus.

A watch is a match rule on NameOwnerChanged for one name. An unfiltered rule would wake the daemon for every client of
every service. The rule is added *before* the bus is asked whether the name exists, so that a client that leaves in
between is noticed. The bus grants 512 match rules to a connection. From MAX_NAME_MATCHES on, one unfiltered rule covers
the names without a rule of their own, until the last of them has left.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from gpumand.bus.connection import BusConnection, BusError, Signal, Subscription
from gpumand.bus.names import DBUS, DBUS_PATH

MAX_NAME_MATCHES = 400
MAX_IDLE_WATCHES = 256

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Watch:
    """One watched name.

    Attributes:
        name: the unique name.
        setup: the task that adds the match rule and asks the bus; its result is whether the name exists.
        match: the match rule of this name; None while it is being added, or when the unfiltered rule covers the name.
        has_left: the bus has announced that the name left.
    """

    name: str
    setup: asyncio.Task[bool] | None = field(default=None)
    match: Subscription | None = None
    has_left: bool = False


class ClientPresence:
    """Watches names that are in use, and the most recently used idle names.

    Args:
        connection: the connection to the bus.
        vanished: called from the event loop with a watched name that has left the bus.

    Attributes:
        may_forget: whether idle names may be forgotten. It must be False until it is known which names are in use.
    """

    def __init__(self, connection: BusConnection, vanished: Callable[[str], None]) -> None:
        self._connection = connection
        self._vanished = vanished
        self._watches: OrderedDict[str, _Watch] = OrderedDict()
        self._retained: dict[str, int] = {}
        self._matches = 0
        self._unfiltered: Subscription | None = None
        self._unfiltered_lock = asyncio.Lock()
        self._cancelling: set[asyncio.Task[None]] = set()
        self.may_forget = False

    @property
    def watched(self) -> frozenset[str]:
        """The names that are being watched."""
        return frozenset(self._watches)

    async def watch(self, name: str) -> bool:
        """Watch a name, then return whether it is on the bus; a bus that does not answer counts as yes.

        Raises:
            BusError: the bus refuses the match rule.
            BusLost: the bus is gone.
        """
        watch = self._watches.get(name)
        if watch is None:
            # Registered before the first await, so that a concurrent call for the same name shares this watch.
            watch = self._watches[name] = _Watch(name)
            watch.setup = asyncio.get_running_loop().create_task(self._set_up(watch))
            watch.setup.add_done_callback(_consume_exception)
        self._watches.move_to_end(name)
        assert watch.setup is not None
        if not watch.setup.done():
            # Several calls of one client share the task: cancelling one call must not cancel it for the others.
            await asyncio.shield(watch.setup)
        present = watch.setup.result()
        self._trim()
        # NameOwnerChanged may have arrived after the answer.
        return present and not watch.has_left

    def retain_watch(self, name: str) -> None:
        """Keep watching this name until ``release_watch`` has been called as often as this method."""
        self._retained[name] = self._retained.get(name, 0) + 1

    def release_watch(self, name: str) -> None:
        """Undo one ``retain_watch``; the name stays watched while it is among the most recently used idle names."""
        self._retained[name] -= 1
        if self._retained[name] <= 0:
            del self._retained[name]
        self._trim()

    async def close(self) -> None:
        """Wait until unused match rules have been removed."""
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    async def _set_up(self, watch: _Watch) -> bool:
        try:
            await self._add_match(watch)
        except BaseException:
            self._forget(watch)
            raise
        if not await self._has_owner(watch.name):
            self._forget(watch)
            return False
        # The name may have left while the bus was asked; _owner_changed has removed the watch then.
        return self._watches.get(watch.name) is watch

    async def _add_match(self, watch: _Watch) -> None:
        if self._matches >= MAX_NAME_MATCHES:
            await self._subscribe_unfiltered()
            return
        # Counted before the call, so that concurrent watches do not exceed the limit together.
        self._matches += 1
        try:
            match = await self._subscribe(watch.name)
        except BusError as error:
            self._matches -= 1
            log.warning("the bus refuses a match rule for one client, so all clients are watched: %s", error)
            await self._subscribe_unfiltered()
            return
        except BaseException:
            self._matches -= 1
            raise
        watch.match = match
        # The watch may have been forgotten while the rule was being added; then the rule has no user.
        if self._watches.get(watch.name) is not watch:
            self._drop_match(watch)

    async def _subscribe_unfiltered(self) -> None:
        # The lock keeps concurrent watches from each adding an unfiltered rule.
        async with self._unfiltered_lock:
            if self._unfiltered is None:
                self._unfiltered = await self._subscribe("")

    async def _subscribe(self, name: str) -> Subscription:
        return await self._connection.subscribe(
            callback=self._owner_changed,
            sender=DBUS,
            path=DBUS_PATH,
            interface=DBUS,
            member="NameOwnerChanged",
            arg0=name,
        )

    async def _has_owner(self, name: str) -> bool:
        """Whether the name exists. Without an answer the client counts as present, so that its leases are not ended."""
        try:
            (has_owner,) = await self._connection.call(DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (name,))
        except BusError as error:
            log.warning("the bus does not report whether %s is connected, so it counts as connected: %s", name, error)
            return True
        return bool(has_owner)

    def _owner_changed(self, signal: Signal) -> None:
        name, _, new_owner = signal.body
        watch = self._watches.get(name)
        # The unfiltered rule reports names that are not watched as well. A new owner means that the name is in use.
        if watch is None or new_owner:
            return
        watch.has_left = True
        self._forget(watch)
        self._vanished(name)

    def _trim(self) -> None:
        """Forget the least recently used idle names beyond MAX_IDLE_WATCHES."""
        surplus = len(self._watches) - len(self._retained) - MAX_IDLE_WATCHES
        if surplus <= 0 or not self.may_forget:
            return
        # A watch whose setup is still running is in use by a call, so it stays.
        idle = [watch for name, watch in self._watches.items() if name not in self._retained and _is_set_up(watch)]
        for watch in idle[:surplus]:
            self._forget(watch)

    def _forget(self, watch: _Watch) -> None:
        if self._watches.get(watch.name) is watch:
            del self._watches[watch.name]
        self._drop_match(watch)

    def _drop_match(self, watch: _Watch) -> None:
        if watch.match is not None:
            self._cancel_later(watch.match)
            watch.match = None
            self._matches -= 1
        self._drop_unfiltered_if_unused()

    def _drop_unfiltered_if_unused(self) -> None:
        """Remove the unfiltered rule once every watched name has a rule of its own."""
        if self._unfiltered is None or any(watch.match is None for watch in self._watches.values()):
            return
        self._cancel_later(self._unfiltered)
        self._unfiltered = None

    def _cancel_later(self, subscription: Subscription) -> None:
        # In a task, since signal callbacks cannot await. The set keeps a reference: asyncio itself holds none.
        task = asyncio.get_running_loop().create_task(_cancel(subscription))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)


def _is_set_up(watch: _Watch) -> bool:
    return watch.setup is not None and watch.setup.done()


def _consume_exception(task: asyncio.Task[bool]) -> None:
    """Read the exception, so that asyncio logs no warning when every waiting call was cancelled meanwhile."""
    if not task.cancelled():
        task.exception()


async def _cancel(subscription: Subscription) -> None:
    """Remove a match rule. A failure is harmless: the rule only causes extra wake-ups until the connection closes."""
    try:
        await subscription.cancel()
    except Exception as error:
        log.debug("a match rule could not be removed: %s", error)
