"""Outgoing method calls that wait for their replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from dbus_fast import Message, MessageType

from gpumand.bus.call_slots import CallSlots
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout, one_line
from gpumand.bus.error_text import without_name
from gpumand.bus.names import DBUS
from gpumand.bus.variants import unwrap


class PendingCalls:
    """Matches replies to calls by serial and sender, with a timeout for each call."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[str, asyncio.Future[Message | None]]] = {}
        self._slots = CallSlots()

    async def reply(self, message: Message, send: Callable[[Message], None], timeout_sec: float) -> Message | None:
        """Send a call and return its reply; None = the connection was lost.

        Args:
            message: the call, with its serial.
            send: sends it; an error is raised here.
            timeout_sec: how long to wait for the reply, and before that until the call may be sent (see CallSlots); a
                later reply is dropped.

        Raises:
            BusTimeout: no reply in time.
        """
        destination = message.destination or ""
        try:
            async with asyncio.timeout(timeout_sec):
                await self._slots.take(destination, message.serial)
                return await self._send(message, destination, send)
        except TimeoutError:
            raise BusTimeout(f"{destination} did not answer {message.member} within {timeout_sec:g} s") from None
        finally:
            self._waiting.pop(message.serial, None)

    async def _send(self, message: Message, destination: str, send: Callable[[Message], None]) -> Message | None:
        future: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        # Registered before sending: the reply may be read before this coroutine runs again.
        self._waiting[message.serial] = (destination, future)
        try:
            send(message)
        except BaseException:
            self._slots.release(message.serial)
            raise
        return await future

    def complete(self, reply: Message) -> None:
        """Complete the call that a reply belongs to; any other reply is dropped."""
        serial = reply.reply_serial or 0
        self._slots.release(serial)  # also for a call whose caller has stopped waiting
        destination, future = self._waiting.get(serial, ("", None))
        if future is None or future.done():
            return
        # Any client can send a message with a guessed reply serial: accept only the called peer, or the bus for it.
        if destination.startswith(":") and reply.sender not in (destination, DBUS):
            return
        future.set_result(reply)

    def fail_all(self) -> None:
        """End all calls without a reply, because the connection is gone."""
        for _, future in self._waiting.values():
            if not future.done():
                future.set_result(None)
        self._slots.release_all()


def reply_values(reply: Message | None, lost_reason: str) -> tuple[Any, ...]:
    """The values of a reply.

    Args:
        reply: the reply; None = the connection was lost.
        lost_reason: why the connection was lost.

    Raises:
        BusError: the reply is an error.
        BusLost: there is no reply.
    """
    if reply is None:
        raise BusLost(lost_reason)
    if reply.message_type is MessageType.ERROR:
        text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
        name = reply.error_name or ""
        raise BusError(name, without_name(name, one_line(text)))
    return tuple(unwrap(reply.body))
