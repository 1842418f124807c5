"""Who is still on the bus: watches unique names and says when one leaves.

A watch is a match rule on NameOwnerChanged for that one name (an unfiltered rule would wake us for every client of
every service), added *before* the bus is asked whether the name is there, so that no death falls between. The bus
gives a connection 512 match rules; from MAX_NAME_MATCHES on, one unfiltered rule covers the names that have none of
their own, until the last of them has left.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
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
        arming: adds the match rule and asks the bus; its result is whether the name is there.
        match: its own match rule; None while it is being added, or where the unfiltered rule covers it.
        has_left: the bus has told that it left.
    """

    name: str
    arming: asyncio.Task[bool] | None = field(default=None)
    match: Subscription | None = None
    has_left: bool = False


class ClientPresence:
    """Watches names for as long as somebody needs that, and the most recent idle ones besides.

    Args:
        connection: to the bus.
        vanished: called, from the event loop, with a watched name that has left the bus.

    Attributes:
        forgetting: whether idle names may be forgotten; not before it is known which names are needed.
    """

    def __init__(self, connection: BusConnection, vanished: Callable[[str], None]) -> None:
        self._connection = connection
        self._vanished = vanished
        self._watches: OrderedDict[str, _Watch] = OrderedDict()
        self._needed: Counter[str] = Counter()
        self._matches = 0
        self._everybody: Subscription | None = None
        self._everybody_lock = asyncio.Lock()
        self._cleaning: set[asyncio.Task[None]] = set()
        self.forgetting = False

    @property
    def watched(self) -> frozenset[str]:
        """The names being watched."""
        return frozenset(self._watches)

    async def watch(self, name: str) -> bool:
        """Watch a name, then say whether it is there; only the bus's clear "no" is a no.

        Raises:
            BusError: the bus does not let it be watched.
            BusLost: the bus is gone.
        """
        watch = self._watches.get(name)
        if watch is None:
            watch = self._watches[name] = _Watch(name)
            watch.arming = asyncio.get_running_loop().create_task(self._arm(watch))
            watch.arming.add_done_callback(_retrieve)
        self._watches.move_to_end(name)
        assert watch.arming is not None
        # Shielded: several calls of one client share the task, and one of them being cancelled must not end it.
        present = await asyncio.shield(watch.arming)
        self._trim()
        return present and not watch.has_left  # which may have been told since the answer came

    def need(self, name: str) -> None:
        """Keep the watch of this name until ``done_with`` was called as often."""
        self._needed[name] += 1

    def done_with(self, name: str) -> None:
        """Undo one ``need``; the watch stays while it is among the most recent ones."""
        self._needed[name] -= 1
        if self._needed[name] <= 0:
            del self._needed[name]
        self._trim()

    async def close(self) -> None:
        """Wait until match rules that are no longer needed are gone."""
        await asyncio.gather(*self._cleaning, return_exceptions=True)

    async def _arm(self, watch: _Watch) -> bool:
        try:
            await self._add_match(watch)
        except BaseException:
            self._forget(watch)
            raise
        if not await self._has_owner(watch.name):
            self._forget(watch)
            return False
        # The signal may have come while the question was under way.
        return self._watches.get(watch.name) is watch

    async def _add_match(self, watch: _Watch) -> None:
        if self._matches >= MAX_NAME_MATCHES:
            await self._watch_everybody()
            return
        self._matches += 1
        try:
            match = await self._subscribe(watch.name)
        except BusError as error:
            self._matches -= 1
            log.warning("no match rule for one client, watching all of them: %s", error)
            await self._watch_everybody()
            return
        except BaseException:
            self._matches -= 1
            raise
        watch.match = match
        if self._watches.get(watch.name) is not watch:
            self._drop_match(watch)

    async def _watch_everybody(self) -> None:
        async with self._everybody_lock:
            if self._everybody is None:
                self._everybody = await self._subscribe("")

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
        """Only an answer counts: a bus that is slow or refuses to say is no proof of death."""
        try:
            (has_owner,) = await self._connection.call(DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (name,))
        except BusError as error:
            log.warning("the bus does not say whether %s is there: %s", name, error)
            return True
        return bool(has_owner)

    def _owner_changed(self, signal: Signal) -> None:
        name, _, new_owner = signal.body
        watch = self._watches.get(name)
        if watch is None or new_owner:
            return
        watch.has_left = True
        self._forget(watch)
        self._vanished(name)

    def _trim(self) -> None:
        """Forget the least recently seen names that nobody needs."""
        surplus = len(self._watches) - len(self._needed) - MAX_IDLE_WATCHES
        if surplus <= 0 or not self.forgetting:
            return
        idle = [watch for name, watch in self._watches.items() if name not in self._needed and _is_armed(watch)]
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
        self._drop_everybody_if_idle()

    def _drop_everybody_if_idle(self) -> None:
        """The unfiltered rule goes with the last name that has no rule of its own."""
        if self._everybody is None or any(watch.match is None for watch in self._watches.values()):
            return
        self._cancel_later(self._everybody)
        self._everybody = None

    def _cancel_later(self, subscription: Subscription) -> None:
        task = asyncio.get_running_loop().create_task(_cancel(subscription))
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


def _is_armed(watch: _Watch) -> bool:
    return watch.arming is not None and watch.arming.done()


def _retrieve(task: asyncio.Task[bool]) -> None:
    """Whoever waits gets the exception; when nobody does any more, it is of no interest."""
    if not task.cancelled():
        task.exception()


async def _cancel(subscription: Subscription) -> None:
    """A rule that cannot be removed only costs a wake-up, and goes with the connection."""
    try:
        await subscription.cancel()
    except Exception as error:
        log.debug("a match rule could not be removed: %s", error)
