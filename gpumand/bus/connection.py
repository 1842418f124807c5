"""The one adapter over the binding: a connection to a bus, as gpumand wants it.

Only the binding's low-level interface is used (Message, add_message_handler, send), which is the same in 1.84, 2.44
and 5.x. What it does not do well is done here: replies are matched and timed out, a full socket is no error, no
exception text leaves the process, waiting calls are capped, signals are delivered in order and only from whom they
were asked of, and the loss of the bus is told to everybody who waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, cast

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from gpumand.bus.call_server import CallServer, Handler, IncomingCall, Reply, no_handler
from gpumand.bus.connecting import open_bus
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout, one_line
from gpumand.bus.machine_id import read_machine_id
from gpumand.bus.names import DBUS, DBUS_PATH, PEER
from gpumand.bus.send_queue import SendQueue
from gpumand.bus.signal_matches import MatchRule, Signal, SignalRouter, Subscription
from gpumand.bus.utf8_text import sized
from gpumand.bus.variants import require_no_nul, unwrap

__all__ = [
    "BusConnection",
    "BusError",
    "BusLost",
    "BusTimeout",
    "IncomingCall",
    "Reply",
    "Signal",
    "Subscription",
]

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_SEC = 2.0
DO_NOT_QUEUE = 4
NAME_IS_OURS = (1, 4)
FREE_POLL_SEC = 0.05


class BusConnection:
    """A connection to one bus. Made by ``connect``; when it is lost, make a new one."""

    def __init__(self, bus: MessageBus) -> None:
        """Take over a connected bus; for ``connect``."""
        self.unique_name = bus.unique_name or ""
        self._bus = bus
        self._machine_id = read_machine_id()
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self._pending: dict[int, tuple[str, asyncio.Future[Message | None]]] = {}
        self._outbox = SendQueue.install(bus, self._break)
        self._calls = CallServer(self._send)
        self._signals = SignalRouter(self._ask_bus, self._tell_bus)
        bus.add_message_handler(self._on_message)
        self._watcher = asyncio.ensure_future(self._watch())

    @classmethod
    async def connect(cls, address: str) -> BusConnection:
        """Connect to "system", "session", or a D-Bus address. Raises BusLost."""
        return cls(await open_bus(address))

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Iterable[Any] = (),
        *,
        timeout_sec: float = 25.0,
        interactive: bool = False,
    ) -> tuple[Any, ...]:
        """Call a method and return its answer as plain values.

        Args:
            timeout_sec: how long to wait for the answer; one that comes later is dropped.
            interactive: allow the peer to have a person asked; then better wait longer.

        Raises:
            BusTimeout: no answer in time.
            BusError: the answer is an error.
            BusLost: there is no bus, or no longer.
        """
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        message = self._outgoing(destination, path, interface, member, signature, body, flags)
        future: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._pending[message.serial] = (destination, future)
        try:
            self._send(message)
            async with asyncio.timeout(timeout_sec):
                reply = await future
        except TimeoutError:
            raise BusTimeout(f"{destination} did not answer {member} within {timeout_sec:g} s") from None
        finally:
            self._pending.pop(message.serial, None)
        return self._result(reply)

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Iterable[Any],
        *,
        destination: str = "",
    ) -> None:
        """Send a signal, to all who want it or to one; never blocks, and never overtakes or is overtaken.

        Raises:
            BusLost: the bus is gone.
            ValueError: a string in it cannot go onto the bus.
        """
        arguments = list(body)
        require_no_nul(arguments)
        self._send(
            Message(
                message_type=MessageType.SIGNAL,
                destination=destination or None,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=arguments,
            )
        )

    async def subscribe(
        self,
        *,
        callback: Callable[[Signal], None],
        sender: str = "",
        path: str = "",
        path_namespace: str = "",
        interface: str = "",
        member: str = "",
        arg0: str = "",
    ) -> Subscription:
        """Have ``callback`` called for every signal that matches, at once and in the order of arrival.

        A sender may be a unique or a well-known name; of the latter only its owner of the moment is listened to.
        An empty argument matches everything.

        Raises:
            BusError: the bus refuses (it takes 512 rules of one connection by default).
            BusLost: the bus is gone.
        """
        rule = MatchRule(sender, path, path_namespace, interface, member, arg0)
        return await self._signals.subscribe(rule, callback)

    def serve(self, handler: Handler) -> None:
        """Have ``handler`` answer every method call, except those to org.freedesktop.DBus.Peer.

        It may return a Reply at once, or an awaitable that runs in a task of its own. An awaitable may be dropped
        unawaited where too many calls wait, so a handler must not have changed anything by the time it returns one.
        A GpumandError becomes its D-Bus error; anything else is logged, and the caller gets "internal error".
        """
        self._calls.serve(handler)

    def cancel_calls_of(self, sender: str) -> None:
        """End the waiting calls of a peer that left the bus."""
        self._calls.cancel_calls_of(sender)

    async def request_name(self, name: str) -> None:
        """Own a well-known name. Raises BusLost, with the reason, when that is not to be had."""
        try:
            (answer,) = await self._bus_call("RequestName", "su", (name, DO_NOT_QUEUE))
        except BusError as error:
            raise BusLost(f"cannot own {name} on the bus: {error.message}") from error
        if answer not in NAME_IS_OURS:
            raise BusLost(f"{name} is owned by another program on this bus: is gpumand running already?")

    async def await_free(self, name: str, within_sec: float) -> None:
        """Return when nobody owns a well-known name; the bus may notice the end of who did a moment later.

        Raises BusLost when somebody still does by then.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + within_sec
        while (await self._bus_call("NameHasOwner", "s", (name,)))[0]:
            if clock() >= deadline:
                raise BusLost(f"{name} is owned by another program on this bus: is gpumand running already?")
            await asyncio.sleep(FREE_POLL_SEC)

    async def release_name(self, name: str) -> None:
        """Give a well-known name back. Raises BusError, BusLost."""
        await self._bus_call("ReleaseName", "s", (name,))

    async def wait_lost(self) -> None:
        """Return when the connection is gone, for whatever reason."""
        await self._lost.wait()

    @property
    def lost_reason(self) -> str:
        """Why the connection is gone, one line; "" while it stands."""
        return self._lost_reason

    async def flush(self) -> None:
        """Return when the bus has taken everything sent so far, or the connection is gone."""
        await self._outbox.drained()

    async def close(self) -> None:
        """End waiting calls with an error, send what is unsent (for a bounded time), and leave the bus."""
        await self._calls.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SEC):
                await self.flush()
        except TimeoutError:
            log.warning("the bus did not take %d bytes before we left", self._outbox.unsent_bytes)
        self._break("the connection was closed")
        await self._watcher

    def _outgoing(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Iterable[Any],
        flags: MessageFlag,
    ) -> Message:
        arguments = list(body)
        require_no_nul(arguments)
        return Message(
            destination=destination,
            path=path,
            interface=interface or None,
            member=member,
            signature=signature,
            body=arguments,
            flags=flags,
            serial=self._bus.next_serial(),
        )

    def _send(self, message: Message) -> None:
        """Put a message on its way. Raises BusLost, and what the binding raises for a body it cannot marshal."""
        if self._lost_reason or not self._bus.connected:
            raise BusLost(self._lost_reason or "the connection to the bus is gone")
        message.body = sized(message.body)
        self._bus.send(message)

    def _result(self, reply: Message | None) -> tuple[Any, ...]:
        if reply is None:
            raise BusLost(self._lost_reason)
        if reply.message_type is MessageType.ERROR:
            text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else ""
            raise BusError(reply.error_name or "", one_line(text))
        return tuple(unwrap(reply.body))

    async def _bus_call(self, member: str, signature: str, body: tuple[Any, ...]) -> tuple[Any, ...]:
        return await self.call(DBUS, DBUS_PATH, DBUS, member, signature, body)

    async def _ask_bus(self, member: str, argument: str) -> tuple[Any, ...]:
        return await self._bus_call(member, "s", (argument,))

    def _tell_bus(self, member: str, argument: str) -> None:
        """Call a method of the bus without wanting an answer; nothing to do where the bus is gone."""
        if self._bus.connected and not self._lost_reason:
            self._send(self._outgoing(DBUS, DBUS_PATH, DBUS, member, "s", (argument,), MessageFlag.NO_REPLY_EXPECTED))

    def _on_message(self, message: Message) -> bool:
        """Everything that comes in passes here; True keeps the binding's own answers away from it."""
        if message.message_type is MessageType.METHOD_CALL:
            self._on_call(message)
        elif message.message_type is MessageType.SIGNAL:
            self._on_signal(message)
        else:
            self._on_reply(message)
        return True

    def _on_call(self, message: Message) -> None:
        if message.interface == PEER:
            self._calls.accept_with(message, self._peer)
        else:
            self._calls.accept(message)

    def _peer(self, call: IncomingCall) -> Any:
        if call.member == "Ping":
            return Reply()
        return Reply("s", (self._machine_id,)) if call.member == "GetMachineId" else no_handler(call)

    def _on_signal(self, message: Message) -> None:
        if "h" in message.signature:
            return
        fields = (message.sender or "", message.path or "", message.interface or "", message.member or "")
        self._signals.dispatch(*fields, message.body)

    def _on_reply(self, message: Message) -> None:
        """An answer counts only from whom it was asked of, or from the bus on their behalf."""
        destination, future = self._pending.get(message.reply_serial or 0, ("", None))
        if future is None or future.done():
            return
        if destination.startswith(":") and message.sender not in (destination, DBUS):
            return
        future.set_result(message)

    def _break(self, reason: str) -> None:
        """End the connection from our side; ``_watch`` does the rest when the binding has let go of the socket."""
        if not self._lost_reason:
            self._lost_reason = reason
            self._bus.disconnect()

    async def _watch(self) -> None:
        """Tell everybody who waits when the bus is gone."""
        try:
            await cast(Any, self._bus).wait_for_disconnect()  # untyped in the binding
            reason = "the bus closed the connection"
        except EOFError:
            reason = "the bus closed the connection"
        except Exception as error:
            reason = f"the connection to the bus broke: {one_line(str(error)) or type(error).__name__}"
        self._lost_reason = self._lost_reason or reason
        self._outbox.stop()
        for _, future in self._pending.values():
            if not future.done():
                future.set_result(None)
        self._lost.set()
        await self._calls.close()
