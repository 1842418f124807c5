"""Reports from logind (org.freedesktop.login1) whether the host is about to sleep or to shut down.

gpumand takes no inhibitor lock: it has nothing to do before a suspend (the driver saves VRAM itself, if configured to),
and a delay lock would only make every suspend slower.
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
READ_TRIES, READ_RETRY_SEC = 20, 5.0


@dataclass(slots=True)
class _Announcement:
    """A pair of a signal and a property of logind.

    Attributes:
        member: name of the signal, which carries True before and False after.
        name: name of the property that is True between the two signals.
        notify: called with the current value.
        signal_count: how often the signal has arrived. A property value that was requested before the last signal is
            out of date.
    """

    member: str
    name: str
    notify: Callable[[bool], None]
    signal_count: int = 0


class Logind:
    """Listens to logind on one bus; without logind no sleep and no shutdown is announced."""

    def __init__(self, bus: BusConnection) -> None:
        """Create a listener; it sends nothing before ``listen``. ``bus`` is a connection to the system bus."""
        self._bus = bus
        self._announcements: list[_Announcement] = []
        self._subscriptions: list[Subscription] = []
        self._reading: set[asyncio.Task[None]] = set()

    async def listen(self, sleep: Callable[[bool], None], shutdown: Callable[[bool], None]) -> None:
        """Subscribe to logind's signals, then read its current state. Never raises, not even without logind.

        Args:
            sleep: called with True before the host sleeps, and with False when it is awake again.
            shutdown: called with True before the host shuts down, and with False if the shutdown is cancelled.
        """
        self._announcements.append(_Announcement("PrepareForSleep", SLEEP, sleep))
        self._announcements.append(_Announcement("PrepareForShutdown", SHUTDOWN, shutdown))
        try:
            await self._subscribe()
            await self._read()
        except (BusError, BusLost) as error:
            log.debug("logind is not available: %s", error)

    async def is_preparing_for_sleep(self) -> bool:
        """Whether the host is about to sleep; False if logind does not answer."""
        try:
            return await self._read_property(SLEEP)
        except (BusError, BusLost) as error:
            log.debug("logind did not report whether the host is about to sleep: %s", error)
            return False

    async def close(self) -> None:
        """Stop listening."""
        for task in tuple(self._reading):
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.cancel()

    async def _subscribe(self) -> None:
        """Subscribe to all signals; to changes of logind's owner first, so that no start of logind is missed."""
        self._subscriptions.append(
            await self._bus.subscribe(
                sender=DBUS,
                path=DBUS_PATH,
                interface=DBUS,
                member="NameOwnerChanged",
                arg0=LOGIND,
                callback=self._on_owner_changed,
            )
        )
        for announcement in self._announcements:
            self._subscriptions.append(await self._subscribe_to(announcement))

    async def _subscribe_to(self, announcement: _Announcement) -> Subscription:
        def on_signal(signal: Signal) -> None:
            # The type is checked, since no XML describes logind's signals here.
            if len(signal.body) == 1 and isinstance(signal.body[0], bool):
                announcement.signal_count += 1
                announcement.notify(signal.body[0])

        return await self._bus.subscribe(
            sender=LOGIND,
            path=LOGIND_PATH,
            interface=LOGIND_MANAGER,
            member=announcement.member,
            callback=on_signal,
        )

    def _on_owner_changed(self, signal: Signal) -> None:
        """Read the state of a logind that has started or restarted: it may have missed one of the two signals."""
        if len(signal.body) == 3 and signal.body[2]:
            # A task, since a signal callback cannot await. The set keeps a reference, since asyncio itself holds none.
            task = asyncio.ensure_future(self._read_with_retries())
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _read_with_retries(self) -> None:
        """Read the state, with retries: otherwise the last announcement of a former logind would stay in force."""
        for _ in range(READ_TRIES):
            try:
                await self._read()
            except BusLost:
                break
            except BusError as error:
                log.debug("logind did not report its state: %s", error)
                await asyncio.sleep(READ_RETRY_SEC)
            else:
                break

    async def _read(self) -> None:
        for announcement in self._announcements:
            signal_count = announcement.signal_count
            is_preparing = await self._read_property(announcement.name)
            # A signal that arrived while the property was read is newer than the value.
            if signal_count == announcement.signal_count:
                announcement.notify(is_preparing)

    async def _read_property(self, name: str) -> bool:
        """Read a property of a running logind, without starting one. Raises BusError, BusLost."""
        # A call to logind itself would make the bus start it.
        (is_running,) = await self._bus.call(
            DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (LOGIND,), timeout_sec=CALL_TIMEOUT_SEC
        )
        if not is_running:
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
