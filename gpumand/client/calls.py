"""The asking: one connection, one method a call, plain values in and out.

What ``gpumanctl`` and the typed clients are made of. Errors are those of the bus (``gpumand.bus.failures``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from gpumand.bus.connection_errors import BusError, BusTimeout
from gpumand.bus.names import BUS_NAME, CONSUMER, CONSUMER_PREFIX, DBUS, DBUS_PATH, MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.object_paths import escape_label
from gpumand.client.errors import Mismatch
from gpumand.client.options import Options, text, to_usec
from gpumand.domain.errors import FREEDESKTOP, OWN

if TYPE_CHECKING:
    from gpumand.bus.connection import BusConnection, Signal

ANSWER_SEC = 10.0
"""How long a call that waits for nothing may take."""

PERSON_SEC = 120.0
"""How much longer a call may take for which somebody may be asked for a password; the daemon itself is on time."""

RESTART_DELAYS_SEC = (0.1, 0.2)
"""While the daemon restarts nobody owns its name for a moment; a call that reached nobody is repeated so often."""

ABSENT = (FREEDESKTOP + "ServiceUnknown", FREEDESKTOP + "NameHasNoOwner")

WENT_AWAY = (FREEDESKTOP + "NoReply", FREEDESKTOP + "Disconnected", OWN + "ShuttingDown")
"""What a call that waits ends with when the daemon is killed, restarted or stopped."""

RETURN_SEC = 10.0
"""How long a daemon that went away is waited for. Not asked for: who stopped it may want it to stay so."""

RETURN_POLL_SEC, MOST_PAUSE_SEC = 0.1, 3.0

OPEN = ("GetStatus", "GetHistory", "Plan")
"""Methods that need no authorization."""

STATUS_KEYS = {"version": str, "degraded": str, "devices": list, "consumers": list, "leases": list, "queue": list}


class Calls:
    """gpumand, seen from outside.

    Attributes:
        connection: to the bus.
        is_away: whether the daemon went away in the middle of a call, and is waited for.
    """

    def __init__(self, connection: BusConnection) -> None:
        self.connection = connection
        self.is_away = False

    @classmethod
    async def connect(cls, bus: str) -> Calls:
        """A connection of its own to "system", "session" or a D-Bus address. Raises BusLost."""
        from gpumand.bus.connection import BusConnection

        return cls(await BusConnection.connect(bus))

    async def close(self) -> None:
        """Leave the bus, which ends what hangs on the connection and withdraws what still waits.

        A cancellation does not keep it from being done.
        """
        await asyncio.shield(asyncio.ensure_future(self.connection.close()))

    async def status(self) -> dict[str, Any]:
        """One snapshot of everything."""
        status = await self._dict("GetStatus")
        for key, kind in STATUS_KEYS.items():
            if not isinstance(status.get(key), kind):
                raise Mismatch(f"its status has no {key}")
        status.setdefault("stats", {})
        return status

    async def history(self, options: Options) -> list[dict[str, Any]]:
        """What happened, newest first, as GetHistory takes its options."""
        reply = await self._call("GetHistory", "a{sv}", (options,))
        if len(reply) != 1 or not isinstance(reply[0], list) or not all(isinstance(one, dict) for one in reply[0]):
            raise Mismatch("GetHistory answered something else than a list of entries")
        return reply[0]

    async def consumer(self, name: str) -> dict[str, Any]:
        """All properties of a consumer's object. Raises BusError where there is none of that name."""
        path = CONSUMER_PREFIX + escape_label(name)
        limit = ANSWER_SEC
        return _dictionary("GetAll", await self._send(PROPERTIES, "GetAll", "s", (CONSUMER,), limit, False, path))

    async def is_running(self) -> bool:
        """Whether the daemon is on the bus; asking does not start it."""
        (is_there,) = await self.connection.call(DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (BUS_NAME,))
        return bool(is_there)

    async def acquire(self, consumer: str, options: Options, timeout_sec: float) -> tuple[str, dict[str, Any]]:
        """Ask for a consumer, again where the daemon is restarted meanwhile: the lease and the grant.

        A token makes asking again safe: a lease whose answer was lost is the one that is given.
        """
        options = {"token": ("s", os.urandom(16).hex()), **options}
        reply = await self._outlasting("Acquire", consumer, options, timeout_sec)
        if len(reply) != 2 or not isinstance(reply[0], str) or not isinstance(reply[1], dict):
            raise Mismatch("Acquire answered something else than a lease and a grant")
        return reply[0], reply[1]

    async def release(self, lease: str) -> None:
        """End a lease."""
        await self._call("Release", "s", (lease,))

    async def renew(self, lease: str, ttl_usec: int) -> int:
        """Give a lease more time: when it ends now."""
        reply = await self._call("Renew", "st", (lease, ttl_usec))
        if len(reply) != 1 or not isinstance(reply[0], int):
            raise Mismatch("Renew answered something else than a time")
        return reply[0]

    async def plan(self, consumer: str, options: Options) -> dict[str, Any]:
        """What Acquire would do now."""
        return await self._dict("Plan", consumer, options)

    async def load(self, consumer: str, options: Options, timeout_sec: float) -> dict[str, Any]:
        """Make a consumer resident, asking again where the daemon is restarted meanwhile."""
        return _dictionary("Load", await self._outlasting("Load", consumer, options, timeout_sec))

    async def evict(self, consumer: str, options: Options, timeout_sec: float) -> dict[str, Any]:
        """Take a consumer's VRAM back."""
        return await self._dict("Evict", consumer, options, timeout_sec)

    async def pin(self, consumer: str, pinned: bool) -> None:
        """Keep a consumer from eviction, or stop doing so."""
        await self._call("Pin" if pinned else "Unpin", "s", (consumer,))

    async def reload(self) -> None:
        """Have the configuration read again."""
        await self._call("Reload", timeout_sec=30.0)

    async def version(self) -> str:
        """The daemon's version."""
        reply = await self._send(PROPERTIES, "Get", "ss", (MANAGER, "Version"), ANSWER_SEC, False)
        if len(reply) != 1 or not isinstance(reply[0], str):
            raise Mismatch("its Version is no string")
        return reply[0]

    async def listen(self, callback: Callable[[Signal], None]) -> None:
        """Have every signal of gpumand's objects delivered, in order, and its coming and going on the bus."""
        changed = {"interface": PROPERTIES, "member": "PropertiesChanged"}
        await self.listen_for_events(callback)
        await self.connection.subscribe(callback=callback, sender=BUS_NAME, path_namespace=ROOT_PATH, **changed)

    async def listen_for_events(self, callback: Callable[[Signal], None]) -> None:
        """Have the Manager's signals and its coming and going delivered, without changes of properties."""
        await self.connection.subscribe(callback=callback, sender=BUS_NAME, path=ROOT_PATH, interface=MANAGER)
        await self.listen_for_owners(callback)

    async def listen_for_owners(self, callback: Callable[[Signal], None]) -> None:
        """Have only gpumand's coming and going on the bus delivered."""
        owner = {"interface": DBUS, "member": "NameOwnerChanged", "arg0": BUS_NAME}
        await self.connection.subscribe(callback=callback, sender=DBUS, path=DBUS_PATH, **owner)

    async def listen_for_ends(self, callback: Callable[[Signal], None]) -> None:
        """Have only LeaseEnded delivered."""
        where = {"sender": BUS_NAME, "path": ROOT_PATH, "interface": MANAGER}
        await self.connection.subscribe(callback=callback, **where, member="LeaseEnded")

    async def _dict(
        self, member: str, consumer: str | None = None, options: Options | None = None, timeout_sec: float = 0.0
    ) -> dict[str, Any]:
        """Call a method that answers one dictionary."""
        body = () if consumer is None else (consumer, options or {})
        return _dictionary(member, await self._call(member, "sa{sv}" if body else "", body, timeout_sec))

    async def _outlasting(self, member: str, consumer: str, options: Options, timeout_sec: float) -> tuple[Any, ...]:
        """Call a method that waits, and again for the rest of the time where the daemon went away and came back."""
        deadline, left_sec = time.monotonic() + timeout_sec, timeout_sec
        pause_sec = RETURN_POLL_SEC
        while True:
            try:
                return await self._call(member, "sa{sv}", (consumer, options), left_sec)
            except BusError as error:
                if isinstance(error, BusTimeout) or error.name not in WENT_AWAY:
                    raise
                if not await self._has_returned(min(deadline, time.monotonic() + RETURN_SEC), pause_sec):
                    raise
            pause_sec = min(2 * pause_sec, MOST_PAUSE_SEC)  # it may be there and refuse: the host shuts down
            left_sec = max(0.0, deadline - time.monotonic())
            options = {**options, "timeout_usec": ("t", to_usec(left_sec))}

    async def _has_returned(self, deadline: float, pause_sec: float) -> bool:
        """Whether the daemon is there again by then; first looked for after a pause."""
        self.is_away = True
        try:
            while time.monotonic() < deadline:
                await asyncio.sleep(min(pause_sec, deadline - time.monotonic()))
                pause_sec = RETURN_POLL_SEC
                if await self.is_running():
                    return True
            return False
        finally:
            self.is_away = False

    async def _call(
        self, member: str, signature: str = "", body: tuple[Any, ...] = (), timeout_sec: float = 0.0
    ) -> tuple[Any, ...]:
        interactive = member not in OPEN
        limit = timeout_sec + ANSWER_SEC + (PERSON_SEC if interactive else 0.0)
        return await self._send(MANAGER, member, signature, tuple(map(_argument, body)), limit, interactive)

    async def _send(
        self,
        interface: str,
        member: str,
        signature: str,
        body: tuple[Any, ...],
        limit_sec: float,
        interactive: bool,
        path: str = ROOT_PATH,
    ) -> tuple[Any, ...]:
        call = self.connection.call
        for delay in (*RESTART_DELAYS_SEC, 0.0):
            try:
                where = (BUS_NAME, path, interface, member)
                return await call(*where, signature, body, timeout_sec=limit_sec, interactive=interactive)
            except BusError as error:
                if error.name not in ABSENT or not delay:
                    raise
            await asyncio.sleep(delay)
        raise AssertionError("the last try returns or raises")


def _argument(part: Any) -> Any:
    """An argument as the binding takes it. Raises InvalidArgs for a string that cannot go onto the bus."""
    from gpumand.bus.variants import to_variants

    if isinstance(part, Mapping):
        return to_variants(part)
    return part if isinstance(part, int) else text("the name", part)


def _dictionary(member: str, reply: tuple[Any, ...]) -> dict[str, Any]:
    """The one dictionary that an answer is."""
    if len(reply) != 1 or not isinstance(reply[0], dict):
        raise Mismatch(f"{member} answered something else than a dictionary")
    return reply[0]
