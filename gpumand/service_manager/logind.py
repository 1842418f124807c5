"""org.freedesktop.login1: whether the host is about to sleep or to shut down.

No inhibitor is taken: nothing of ours has to be done before a suspend (the driver saves VRAM itself, where it is
configured to), and a delay lock would only make every suspend slower.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gpumand.bus.connection import BusConnection, BusError, BusLost, Signal, Subscription
from gpumand.bus.names import DBUS, DBUS_PATH, PROPERTIES

log = logging.getLogger(__name__)

LOGIND = "org.freedesktop.login1"
LOGIND_PATH = "/org/freedesktop/login1"
LOGIND_MANAGER = "org.freedesktop.login1.Manager"

SLEEP, SHUTDOWN = "PreparingForSleep", "PreparingForShutdown"

CALL_TIMEOUT_SEC = 2.0
READ_TRIES, READ_AGAIN_SEC = 20, 5.0


@dataclass(slots=True)
class _Announcement:
    """One of logind's pairs of a signal and a property.

    Attributes:
        member: the signal; True before, False after.
        name: the property that says whether we are between the two.
        tell: whom to tell.
        heard: how often the signal came: what was asked before it came says nothing any more.
    """

    member: str
    name: str
    tell: Callable[[bool], None]
    heard: int = 0


class Logind:
    """logind on one bus, while it is there; without it nothing is announced."""

    def __init__(self, bus: BusConnection) -> None:
        """Prepare, without talking to anybody; ``bus`` is where logind would be."""
        self._bus = bus
        self._announcements: list[_Announcement] = []
        self._subscriptions: list[Subscription] = []
        self._reading: set[asyncio.Task[None]] = set()

    async def listen(self, sleep: Callable[[bool], None], shutdown: Callable[[bool], None]) -> None:
        """Begin to listen, then ask how things are. Never raises: without logind nothing is heard of it.

        Args:
            sleep: told True before the host sleeps, False when it is awake again.
            shutdown: told True before the host shuts down, False when that is called off.
        """
        self._announcements.append(_Announcement("PrepareForSleep", SLEEP, sleep))
        self._announcements.append(_Announcement("PrepareForShutdown", SHUTDOWN, shutdown))
        try:
            await self._subscribe()
            await self._read()
        except (BusError, BusLost) as error:
            log.debug("logind is not listened to: %s", error)

    async def is_preparing_for_sleep(self) -> bool:
        """Whether the host is about to sleep; False where logind does not say."""
        try:
            return await self._ask(SLEEP)
        except (BusError, BusLost) as error:
            log.debug("logind does not say whether the host is about to sleep: %s", error)
            return False

    async def close(self) -> None:
        """Stop listening."""
        for task in tuple(self._reading):
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.cancel()

    async def _subscribe(self) -> None:
        """The owner's coming and going first: then no logind comes up unnoticed."""
        self._subscriptions.append(
            await self._bus.subscribe(
                sender=DBUS,
                path=DBUS_PATH,
                interface=DBUS,
                member="NameOwnerChanged",
                arg0=LOGIND,
                callback=self._on_owner,
            )
        )
        for announcement in self._announcements:
            self._subscriptions.append(await self._subscribe_to(announcement))

    async def _subscribe_to(self, announcement: _Announcement) -> Subscription:
        def on_signal(signal: Signal) -> None:
            if len(signal.body) == 1 and isinstance(signal.body[0], bool):
                announcement.heard += 1
                announcement.tell(signal.body[0])

        return await self._bus.subscribe(
            sender=LOGIND,
            path=LOGIND_PATH,
            interface=LOGIND_MANAGER,
            member=announcement.member,
            callback=on_signal,
        )

    def _on_owner(self, signal: Signal) -> None:
        """A logind that has just started, or started anew, may be between the signals already, or no longer."""
        if len(signal.body) == 3 and signal.body[2]:
            task = asyncio.ensure_future(self._read_quietly())
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read_quietly(self) -> None:
        """One that is slow to answer is asked again, or what its predecessor announced would stand for ever."""
        for _ in range(READ_TRIES):
            try:
                await self._read()
            except BusLost:
                break
            except BusError as error:
                log.debug("logind does not say how things are: %s", error)
                await asyncio.sleep(READ_AGAIN_SEC)
            else:
                break

    async def _read(self) -> None:
        for announcement in self._announcements:
            heard = announcement.heard
            is_preparing = await self._ask(announcement.name)
            if heard == announcement.heard:
                announcement.tell(is_preparing)

    async def _ask(self, name: str) -> bool:
        """Read a property. A host that has no logind running gets none started by that. Raises BusError, BusLost."""
        (is_there,) = await self._bus.call(
            DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (LOGIND,), timeout_sec=CALL_TIMEOUT_SEC
        )
        if not is_there:
            return False
        (value,) = await self._bus.call(
            LOGIND,
            LOGIND_PATH,
            PROPERTIES,
            "Get",
            "ss",
            (LOGIND_MANAGER, name),
            timeout_sec=CALL_TIMEOUT_SEC,
        )
        return value is True
