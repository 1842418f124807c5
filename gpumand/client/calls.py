"""Calls gpumand over D-Bus: one connection, one method for each call, plain values in and out.

Both ``gpumanctl`` and the typed clients are built on it. It raises the errors of ``gpumand.bus.connection_errors``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from gpumand.bus.connection_errors import BusError, BusTimeout
from gpumand.bus.names import BUS_NAME, CONSUMER, CONSUMER_PREFIX, DBUS, DBUS_PATH, MANAGER, PROPERTIES, ROOT_PATH
from gpumand.bus.object_paths import escape_label
from gpumand.client.errors import Mismatch
from gpumand.client.options import Options, checked_text, to_usec
from gpumand.domain.errors import ERROR_PREFIX, FREEDESKTOP_ERROR_PREFIX

if TYPE_CHECKING:
    from gpumand.bus.connection import BusConnection, Signal
    from gpumand.client.blocking_connection import BlockingConnection

ANSWER_SEC = 10.0
"""Time limit of a call that does not wait in the queue, in seconds."""

AUTHORIZATION_SEC = 120.0
"""Added to the limit of calls for which polkit may ask for a password; the daemon itself keeps its own timeouts."""

RESTART_DELAYS_SEC = (0.1, 0.2)
"""Delays before a call is repeated that found no owner of the name: while the daemon restarts, it is briefly absent."""

NO_OWNER_ERRORS = (FREEDESKTOP_ERROR_PREFIX + "ServiceUnknown", FREEDESKTOP_ERROR_PREFIX + "NameHasNoOwner")

LOST_REPLY_ERRORS = (
    FREEDESKTOP_ERROR_PREFIX + "NoReply",
    FREEDESKTOP_ERROR_PREFIX + "Disconnected",
    ERROR_PREFIX + "ShuttingDown",
)
"""Errors that end a waiting call when the daemon is killed, restarted or stopped."""

RETURN_SEC = 10.0
"""Seconds to wait for a daemon that went away to return.

It is not started by activation: an administrator may have stopped it on purpose.
"""

RETURN_POLL_SEC, MAX_PAUSE_SEC = 0.1, 3.0

PUBLIC_METHODS = ("GetStatus", "GetHistory", "Plan")
"""Methods that any user may call, so that polkit never asks for a password."""

STATUS_KEY_TYPES = {"version": str, "degraded": str, "devices": list, "consumers": list, "leases": list, "queue": list}


class Calls:
    """The methods of gpumand, called over one bus connection.

    Over a blocking connection its coroutines never suspend, and it cannot listen to signals.

    Attributes:
        connection: the connection to the bus.
        is_waiting_for_daemon: whether the daemon went away during a call and the call waits for its return.
    """

    def __init__(self, connection: BusConnection | BlockingConnection) -> None:
        # Signals, which only an event loop can deliver, are the one difference between the two.
        self.connection = cast("BusConnection", connection)
        self.is_waiting_for_daemon = False

    @classmethod
    async def connect(cls, bus: str) -> Calls:
        """Open a new connection to "system", "session" or a D-Bus address. Raises BusLost."""
        from gpumand.bus.connection import BusConnection

        return cls(await BusConnection.connect(bus))

    async def close(self) -> None:
        """Close the connection, which ends its leases of lifetime "connection" and withdraws its waiting requests.

        Closing completes even if the caller is cancelled.
        """
        await self.connection.close_shielded()

    async def status(self) -> dict[str, Any]:
        """The answer of GetStatus: one consistent snapshot. Raises Mismatch if a required key is missing."""
        status = await self._dict("GetStatus")
        for key, kind in STATUS_KEY_TYPES.items():
            if not isinstance(status.get(key), kind):
                raise Mismatch(f"GetStatus answered no valid {key}")
        status.setdefault("stats", {})
        return status

    async def history(self, options: Options) -> list[dict[str, Any]]:
        """History entries, newest first. The options are those of GetHistory."""
        reply = await self._call("GetHistory", "a{sv}", (options,))
        if len(reply) != 1 or not isinstance(reply[0], list) or not all(isinstance(one, dict) for one in reply[0]):
            raise Mismatch("GetHistory did not answer with a list of entries")
        return reply[0]

    async def consumer(self, name: str) -> dict[str, Any]:
        """All properties of a consumer's object. Raises BusError if there is no consumer of that name."""
        path = CONSUMER_PREFIX + escape_label(name)
        limit = ANSWER_SEC
        return _dictionary("GetAll", await self._send(PROPERTIES, "GetAll", "s", (CONSUMER,), limit, False, path))

    async def is_running(self) -> bool:
        """Whether the daemon is on the bus. The question goes to the bus and does not start the daemon."""
        (is_owned,) = await self.connection.call(DBUS, DBUS_PATH, DBUS, "NameHasOwner", "s", (BUS_NAME,))
        return bool(is_owned)

    async def acquire(self, consumer: str, options: Options, timeout_sec: float) -> tuple[str, dict[str, Any]]:
        """Request a lease, and repeat the request if the daemon restarts meanwhile: the lease id and the grant.

        An idempotency token makes the repetition safe: if the answer to the first call was lost, the second call gets
        the same lease.
        """
        options = {"token": ("s", os.urandom(16).hex()), **options}  # a token of the caller takes precedence
        reply = await self._call_with_retry("Acquire", consumer, options, timeout_sec)
        if len(reply) != 2 or not isinstance(reply[0], str) or not isinstance(reply[1], dict):
            raise Mismatch("Acquire did not answer with a lease id and a grant")
        return reply[0], reply[1]

    async def release(self, lease: str) -> None:
        """End a lease."""
        await self._call("Release", "s", (lease,))

    async def renew(self, lease: str, ttl_usec: int) -> int:
        """Extend a lease; returns when it ends now, in microseconds since 1970."""
        reply = await self._call("Renew", "st", (lease, ttl_usec))
        if len(reply) != 1 or not isinstance(reply[0], int):
            raise Mismatch("Renew did not answer with a time")
        return reply[0]

    async def cancel(self, request: str) -> None:
        """Cancel a waiting request, by its id in ``queue`` of the status."""
        await self._call("Cancel", "s", (request,))

    async def plan(self, consumer: str, options: Options) -> dict[str, Any]:
        """What a request would do now; changes nothing."""
        return await self._dict("Plan", consumer, options)

    async def load(self, consumer: str, options: Options, timeout_sec: float) -> dict[str, Any]:
        """Make a consumer resident, and repeat the call if the daemon restarts meanwhile."""
        return _dictionary("Load", await self._call_with_retry("Load", consumer, options, timeout_sec))

    async def evict(self, consumer: str, options: Options, timeout_sec: float) -> dict[str, Any]:
        """Evict a consumer."""
        return await self._dict("Evict", consumer, options, timeout_sec)

    async def pin(self, consumer: str, pinned: bool) -> None:
        """Pin or unpin a consumer."""
        await self._call("Pin" if pinned else "Unpin", "s", (consumer,))

    async def release_gpu(self, options: Options, timeout_sec: float) -> dict[str, Any]:
        """Release the GPU driver; the answer says until when, and which processes use a GPU still."""
        reply = await self._call("ReleaseGpu", "a{sv}", (options,), timeout_sec)
        return _dictionary("ReleaseGpu", reply)

    async def take_gpu(self) -> bool:
        """Take the GPU driver again; returns whether it was released."""
        reply = await self._call("TakeGpu", timeout_sec=30.0)
        return bool(reply[0]) if reply else False

    async def reload(self) -> None:
        """Reload the configuration."""
        await self._call("Reload", timeout_sec=30.0)

    async def version(self) -> str:
        """The daemon's version."""
        reply = await self._send(PROPERTIES, "Get", "ss", (MANAGER, "Version"), ANSWER_SEC, False)
        if len(reply) != 1 or not isinstance(reply[0], str):
            raise Mismatch("the property Version is not a string")
        return reply[0]

    async def listen(self, callback: Callable[[Signal], None]) -> None:
        """Deliver every signal of gpumand's objects, in order, and changes of its presence on the bus."""
        changed = {"interface": PROPERTIES, "member": "PropertiesChanged"}
        await self.listen_for_events(callback)
        await self.connection.subscribe(callback=callback, sender=BUS_NAME, path_namespace=ROOT_PATH, **changed)

    async def listen_for_events(self, callback: Callable[[Signal], None]) -> None:
        """Deliver the Manager's signals and changes of its presence on the bus, without property changes."""
        await self.connection.subscribe(callback=callback, sender=BUS_NAME, path=ROOT_PATH, interface=MANAGER)
        await self.listen_for_owner_changes(callback)

    async def listen_for_owner_changes(self, callback: Callable[[Signal], None]) -> None:
        """Deliver only changes of gpumand's presence on the bus."""
        owner = {"interface": DBUS, "member": "NameOwnerChanged", "arg0": BUS_NAME}
        await self.connection.subscribe(callback=callback, sender=DBUS, path=DBUS_PATH, **owner)

    async def listen_for_lease_ends(self, callback: Callable[[Signal], None]) -> None:
        """Deliver only the signal LeaseEnded."""
        target = {"sender": BUS_NAME, "path": ROOT_PATH, "interface": MANAGER}
        await self.connection.subscribe(callback=callback, **target, member="LeaseEnded")

    async def listen_for_wanted_leases(self, callback: Callable[[Signal], None]) -> None:
        """Deliver only the signal LeaseWanted."""
        target = {"sender": BUS_NAME, "path": ROOT_PATH, "interface": MANAGER}
        await self.connection.subscribe(callback=callback, **target, member="LeaseWanted")

    async def listen_for_lease_health(self, callback: Callable[[Signal], None]) -> None:
        """Deliver only the signals LeaseDegraded and LeaseRestored."""
        target = {"sender": BUS_NAME, "path": ROOT_PATH, "interface": MANAGER}
        for member in ("LeaseDegraded", "LeaseRestored"):
            await self.connection.subscribe(callback=callback, **target, member=member)

    async def _dict(
        self, member: str, consumer: str | None = None, options: Options | None = None, timeout_sec: float = 0.0
    ) -> dict[str, Any]:
        """Call a method that answers with one dictionary."""
        body = () if consumer is None else (consumer, options or {})
        return _dictionary(member, await self._call(member, "sa{sv}" if body else "", body, timeout_sec))

    async def _call_with_retry(
        self, member: str, consumer: str, options: Options, timeout_sec: float
    ) -> tuple[Any, ...]:
        """Call a method that waits, and call it again for the remaining time if the daemon went away and returned."""
        deadline, left_sec = time.monotonic() + timeout_sec, timeout_sec
        pause_sec = RETURN_POLL_SEC
        while True:
            try:
                return await self._call(member, "sa{sv}", (consumer, options), left_sec)
            except BusError as error:
                if isinstance(error, BusTimeout) or error.name not in LOST_REPLY_ERRORS:
                    raise
                if not await self._wait_for_return(min(deadline, time.monotonic() + RETURN_SEC), pause_sec):
                    raise
            # A daemon that is on the bus may still refuse (ShuttingDown while the host shuts down): back off.
            pause_sec = min(2 * pause_sec, MAX_PAUSE_SEC)
            # The daemon counts the timeout from the call, so the repeated call gets only the time that is left.
            left_sec = max(0.0, deadline - time.monotonic())
            options = {**options, "timeout_usec": ("t", to_usec(left_sec))}

    async def _wait_for_return(self, deadline: float, pause_sec: float) -> bool:
        """Wait for the daemon to return to the bus, until the deadline; the first check is after the pause."""
        self.is_waiting_for_daemon = True
        try:
            while time.monotonic() < deadline:
                await self.connection.sleep(min(pause_sec, deadline - time.monotonic()))
                pause_sec = RETURN_POLL_SEC
                if await self.is_running():
                    return True
            return False
        finally:
            self.is_waiting_for_daemon = False

    async def _call(
        self, member: str, signature: str = "", body: tuple[Any, ...] = (), timeout_sec: float = 0.0
    ) -> tuple[Any, ...]:
        interactive = member not in PUBLIC_METHODS
        limit = timeout_sec + ANSWER_SEC + (AUTHORIZATION_SEC if interactive else 0.0)
        return await self._send(MANAGER, member, signature, tuple(map(self._argument, body)), limit, interactive)

    def _argument(self, argument: Any) -> Any:
        """Convert an argument for the D-Bus binding. Raises InvalidArgs for a string that D-Bus cannot carry."""
        if isinstance(argument, Mapping):
            return self.connection.variants(argument)
        return argument if isinstance(argument, int) else checked_text("the name", argument)

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
                target = (BUS_NAME, path, interface, member)
                return await call(*target, signature, body, timeout_sec=limit_sec, interactive=interactive)
            except BusError as error:
                if error.name not in NO_OWNER_ERRORS or not delay:
                    raise
            await self.connection.sleep(delay)
        raise AssertionError("the last attempt returns or raises")


def _dictionary(member: str, reply: tuple[Any, ...]) -> dict[str, Any]:
    """The dictionary in a reply. Raises Mismatch if the reply has another form."""
    if len(reply) != 1 or not isinstance(reply[0], dict):
        raise Mismatch(f"{member} did not answer with a dictionary")
    return reply[0]
