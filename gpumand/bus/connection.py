"""A connection to a D-Bus bus: the only adapter over the dbus-fast library.

It uses the low-level interface of dbus-fast (Message, add_message_handler, next_serial), which is the same in 1.84,
2.44 and 5.x, and these parts that are private or not documented. The tests named here fail with a version that lacks
one:

- ``Message._marshall`` and ``Marshaller`` encode messages and bodies (test_signal_encoder.py, test_reply_encoder.py);
- ``_writer`` of MessageBus gets a send queue instead of its socket (test_send_queue.py);
- ``_sock``, ``_fd``, ``_process_message``, ``_finalize`` and ``build_message_reader`` let inlet.py read instead of
  MessageBus, and message_flags.py fills ``MESSAGE_FLAG_MAP`` (test_hostile_calls.py);
- ``_sock`` and ``_stream`` are closed by connecting.py if a connect fails (test_connection.py).

The following is implemented here because the library does it badly or not at all:

- replies are matched by serial and sender, and time out;
- a full socket is not an error;
- no exception text reaches a caller;
- the number of waiting calls is capped;
- signals are delivered in order, and only from the sender that was subscribed to;
- every waiting call fails when the bus is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any, cast

from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from gpumand.bus.call_server import CallServer, Handler, IncomingCall, Reply, reject_call
from gpumand.bus.connecting import open_bus
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout, one_line
from gpumand.bus.inlet import MAX_BODY_BYTES, Inlet
from gpumand.bus.machine_id import read_machine_id
from gpumand.bus.messages import method_call, unicast_signal
from gpumand.bus.names import DBUS, DBUS_PATH, PEER
from gpumand.bus.pending_calls import PendingCalls, reply_values
from gpumand.bus.reply_encoder import ReplyEncoder
from gpumand.bus.send_queue import Lane, SendQueue
from gpumand.bus.signal_encoder import SignalEncoder
from gpumand.bus.signal_matches import MatchRule, Signal, SignalRouter, Subscription
from gpumand.bus.utf8_text import COUNTS_CHARACTERS, with_byte_lengths
from gpumand.bus.variants import require_no_nul, to_variants

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
"""Flag of RequestName: fail instead of waiting for the name."""

NAME_OWNED_REPLIES = (1, 4)
"""Replies of RequestName after which the connection owns the name: primary owner, and already owner."""

NAME_POLL_SEC = 0.05


class BusConnection:
    """A connection to one bus. Create it with ``connect``; after a loss, create a new one."""

    def __init__(self, bus: MessageBus) -> None:
        """Take over a connected MessageBus. Use ``connect`` instead."""
        self.unique_name = bus.unique_name or ""
        self._bus = bus
        self._machine_id = read_machine_id()
        self._lost = asyncio.Event()
        self._lost_reason = ""
        self._pending = PendingCalls()
        self._send_queue = SendQueue.install(bus, self._disconnect)
        self._encoder, self._reply_encoder = SignalEncoder(), ReplyEncoder()
        self._calls = CallServer(self._send, self._send_reply)
        self._signals = SignalRouter(self._call_bus_with_text, self._call_bus_no_reply)
        bus.add_message_handler(self._on_message)
        self._inlet = Inlet.install(bus, self._on_oversized)
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
        """Call a method and return its reply as plain values.

        Args:
            timeout_sec: how long to wait for the reply; a later reply is dropped.
            interactive: allow the peer to open a password dialog. Use a longer timeout then.

        Raises:
            BusTimeout: no reply in time.
            BusError: the reply is an error.
            BusLost: the connection is gone.
        """
        flags = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION if interactive else MessageFlag.NONE
        serial = self._bus.next_serial()
        message = method_call(destination, path, interface, member, signature, body, flags, serial)
        return reply_values(await self._pending.reply(message, self._send, timeout_sec), self._lost_reason)

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds."""
        await asyncio.sleep(seconds)

    def variants(self, options: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
        """Return an ``a{sv}`` argument made of names with their (signature, plain value)."""
        return dict(to_variants(options))

    def emit(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Iterable[Any] | bytes,
        *,
        destination: str = "",
        lane: Lane = Lane.EVENT,
        checked: bool = False,
    ) -> None:
        """Send a signal without blocking, at the end of this iteration of the event loop.

        Args:
            path, interface, member: where the signal comes from, and its name.
            signature: signature of the body.
            body: the values; or their encoding, see ``SignalEncoder``.
            destination: unique name of the only receiver; "" sends it to every client with a matching rule.
            lane: changes of state overtake events, and events overtake replies, within one iteration.
            checked: the caller guarantees that no string contains a NUL.

        Raises:
            BusLost: the connection is gone.
            ValueError: a string contains a NUL.
        """
        arguments = body if isinstance(body, bytes) else list(body)
        if not checked:
            require_no_nul(arguments)
        if destination:
            assert not isinstance(arguments, bytes), "only broadcasts may be encoded already"
            self._send(unicast_signal(destination, path, interface, member, signature, arguments), lane)
            return
        self._require_connected()
        serial = self._bus.next_serial()
        self._send_queue.put(self._encoder.encode(path, interface, member, signature, arguments, serial), lane)

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
        """Call ``callback`` for every matching signal, immediately and in the order of arrival.

        ``sender`` may be a unique or a well-known name. For a well-known name only signals of its current owner are
        delivered. An empty argument matches everything.

        Raises:
            BusError: the bus refuses the rule (the default limit is 512 rules for each connection).
            BusLost: the connection is gone.
        """
        rule = MatchRule(sender, path, path_namespace, interface, member, arg0)
        return await self._signals.subscribe(rule, callback)

    def drop_signals(self, path_prefix: str, except_from: Container[str]) -> None:
        """Drop signals of many objects before they are parsed, in place of what was dropped so far.

        Args:
            path_prefix: what the object paths begin with; "" drops nothing.
            except_from: the object paths whose signals are delivered, at the time of each signal.
        """
        self._inlet.drop_signals(path_prefix, except_from)

    def serve(self, handler: Handler) -> None:
        """Answer every method call with ``handler``, except calls to org.freedesktop.DBus.Peer.

        The handler returns a Reply, or an awaitable that runs in its own task. If too many calls are waiting, the
        awaitable is dropped without being awaited, so a handler must not change anything before it returns one.
        A GpumandError becomes its D-Bus error. Any other exception is logged, and the caller gets "internal error".
        """
        self._calls.serve(handler)

    def cancel_calls_of(self, sender: str) -> None:
        """Cancel the waiting calls of a client that left the bus."""
        self._calls.cancel_calls_of(sender)

    async def request_name(self, name: str) -> None:
        """Acquire a well-known name. Raises BusLost with the reason if the bus does not grant it."""
        try:
            (answer,) = await self._call_bus("RequestName", "su", (name, DO_NOT_QUEUE))
        except BusError as error:
            raise BusLost(f"cannot own {name} on the bus: {error.message}") from error
        if answer not in NAME_OWNED_REPLIES:
            raise BusLost(_owned_by_another(name))

    async def wait_name_free(self, name: str, within_sec: float) -> None:
        """Wait until a well-known name has no owner; the bus may notice a moment later that a former owner exited.

        Raises BusLost if the name still has an owner after ``within_sec`` seconds.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + within_sec
        while (await self._call_bus("NameHasOwner", "s", (name,)))[0]:
            if clock() >= deadline:
                raise BusLost(_owned_by_another(name))
            await asyncio.sleep(NAME_POLL_SEC)

    async def wait_lost(self) -> None:
        """Wait until the connection is gone, for any reason."""
        await self._lost.wait()

    @property
    def lost_reason(self) -> str:
        """Why the connection is gone, as one line; "" while it is open."""
        return self._lost_reason

    def before_write(self, hook: Callable[[], None]) -> None:
        """Call a hook before the messages of an iteration of the event loop are written; it may send more."""
        self._send_queue.on_write(hook)

    def after_write(self, hook: Callable[[], None]) -> None:
        """Call one more hook after each write at the end of an iteration: work that no client waits for."""
        self._send_queue.on_written(hook)

    def schedule_write(self) -> None:
        """Call the hook of ``before_write`` at the end of this iteration, even if nothing has been sent."""
        self._send_queue.schedule_write()

    async def flush(self) -> None:
        """Wait until every message sent so far is written to the socket, or the connection is gone."""
        await self._send_queue.wait_drained()

    async def close(self) -> None:
        """End waiting calls with an error, write unsent messages for up to CLOSE_TIMEOUT_SEC, and leave the bus."""
        # Errors for waiting calls are queued before the flush, so that their callers get them.
        await self._calls.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SEC):
                await self.flush()
        except TimeoutError:
            log.warning(
                "left the bus with %d unsent bytes: it did not read them in time", self._send_queue.unsent_bytes
            )
        self._disconnect("the connection was closed")
        await self._watcher

    async def close_shielded(self) -> None:
        """Close the connection even if the caller is cancelled: it would stay open, and with it its leases."""
        await asyncio.shield(asyncio.ensure_future(self.close()))

    def _send(self, message: Message, lane: Lane = Lane.REPLY) -> None:
        """Queue a message for sending. Raises BusLost, and errors of dbus-fast for a body that it cannot marshal."""
        self._require_connected()
        # dbus-fast 1.84 would write wrong lengths for text that is not ASCII, and the bus would close the connection.
        if COUNTS_CHARACTERS:
            message.body = with_byte_lengths(message.body)
        if not message.serial:
            message.serial = self._bus.next_serial()
        # Not by MessageBus.send, which creates a future for each message and calls the writer for each.
        self._send_queue.put(bytes(message._marshall(False)), lane)

    def _send_reply(self, call: Message, signature: str, body: list[Any], content: bytes | None) -> None:
        """Queue the reply to a call for sending; raises like ``_send``."""
        self._require_connected()
        reply = self._reply_encoder.encode(call, signature, body, self._bus.next_serial(), content)
        self._send_queue.put(reply, Lane.REPLY)

    def _require_connected(self) -> None:
        if self._lost_reason or not self._bus.connected:
            raise BusLost(self._lost_reason or "the connection to the bus is gone")

    async def _call_bus(self, member: str, signature: str, body: tuple[Any, ...]) -> tuple[Any, ...]:
        return await self.call(DBUS, DBUS_PATH, DBUS, member, signature, body)

    async def _call_bus_with_text(self, member: str, argument: str) -> tuple[Any, ...]:
        return await self._call_bus(member, "s", (argument,))

    def _call_bus_no_reply(self, member: str, argument: str) -> None:
        """Call a method of the bus without waiting for the reply; does nothing if the connection is gone."""
        if self._bus.connected and not self._lost_reason:
            serial, flags = self._bus.next_serial(), MessageFlag.NO_REPLY_EXPECTED
            self._send(method_call(DBUS, DBUS_PATH, DBUS, member, "s", (argument,), flags, serial))

    def _on_message(self, message: Message) -> bool:
        """Handle every incoming message; returning True keeps dbus-fast from handling it too."""
        if message.message_type is MessageType.METHOD_CALL:
            self._on_call(message)
        elif message.message_type is MessageType.SIGNAL:
            self._on_signal(message)
        else:
            self._pending.complete(message)
        return True

    def _on_oversized(self, message: Message) -> None:
        """Refuse a call whose body was too large to be parsed; such a signal is dropped."""
        if message.message_type is MessageType.METHOD_CALL:
            self._calls.refuse_oversized(message, MAX_BODY_BYTES)
        else:
            log.debug("dropped a signal of %s from %s: it is too large", message.interface, message.sender)

    def _on_call(self, message: Message) -> None:
        # D-Bus requires Peer to be answered on every path, even on paths without an object.
        if message.interface == PEER:
            self._calls.accept_with(message, self._answer_peer)
        else:
            self._calls.accept(message)

    def _answer_peer(self, call: IncomingCall) -> Any:
        if call.member == "Ping":
            return Reply()
        return Reply("s", (self._machine_id,)) if call.member == "GetMachineId" else reject_call(call)

    def _on_signal(self, message: Message) -> None:
        # Without support for file descriptors the handles in such a body refer to nothing.
        if "h" in message.signature:
            return
        fields = (message.sender or "", message.path or "", message.interface or "", message.member or "")
        self._signals.dispatch(*fields, message.body)

    def _disconnect(self, reason: str) -> None:
        """Close the connection from this side; ``_watch`` cleans up once dbus-fast has closed the socket."""
        if not self._lost_reason:
            self._lost_reason = reason
            self._bus.disconnect()

    async def _watch(self) -> None:
        """Wait for the end of the connection, then fail all pending calls."""
        try:
            await cast(Any, self._bus).wait_for_disconnect()  # has no type annotation in dbus-fast
            reason = "the bus closed the connection"
        except EOFError:
            reason = "the bus closed the connection"
        except Exception as error:
            reason = f"the connection to the bus broke: {one_line(str(error)) or type(error).__name__}"
        # A reason set by _disconnect() is the cause; the error seen here is only its consequence.
        self._lost_reason = self._lost_reason or reason
        self._send_queue.stop()
        self._pending.fail_all()
        self._lost.set()
        await self._calls.close()


def _owned_by_another(name: str) -> str:
    return f"{name} is owned by another process on this bus. Check whether another gpumand is running."
