"""Serves incoming method calls: one handler, exactly one answer for each call, and caps on waiting calls."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from dbus_fast import Message, MessageFlag, MessageType

from gpumand.bus.connection_errors import BusLost, one_line
from gpumand.bus.error_text import with_name
from gpumand.bus.variants import require_no_nul
from gpumand.domain.errors import FREEDESKTOP_ERROR_PREFIX, GpumandError, InvalidArgs, LimitsExceeded, ShuttingDown

log = logging.getLogger(__name__)

MAX_WAITING_PER_SENDER = 128
MAX_WAITING = 2048
CANCEL_TIMEOUT_SEC = 2.0
NO_FLAGS = MessageFlag.NONE


class IncomingCall(NamedTuple):
    """A method call as received.

    One is made for each call. A frozen dataclass would take three times as long.

    Attributes:
        sender: the caller's unique name, which the bus fills in and a client cannot forge.
        path: object path.
        interface: name of the interface, "" when the caller gave none.
        member: name of the method.
        signature: signature of the body.
        body: the arguments. Variants are still Variant objects of dbus-fast. Structs are lists or tuples, depending on
            the version of dbus-fast.
        interactive: the caller allows a password dialog (flag ALLOW_INTERACTIVE_AUTHORIZATION).
    """

    sender: str
    path: str
    interface: str
    member: str
    signature: str
    body: tuple[Any, ...]
    interactive: bool


class Reply(NamedTuple):
    """The return values of a method. Structs must be lists, since dbus-fast 1.84 cannot marshal tuples.

    Attributes:
        signature: signature of the body.
        body: the values.
        checked: the handler guarantees that no string contains a NUL, as ``marshalling`` does.
        content: the body as bytes; ``body`` is then any small body of the same signature.
    """

    signature: str = ""
    body: tuple[Any, ...] = ()
    checked: bool = False
    content: bytes | None = None


class _WaitingCall(NamedTuple):
    """A call that has not been answered yet: the task that awaits its answer, and what that is made of."""

    task: asyncio.Task[None]
    message: Message
    answer: Awaitable[Reply]


Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]
SendReply = Callable[[Message, str, list[Any], bytes | None], None]


class UnknownMethod(GpumandError):
    """The called method does not exist on this connection."""

    dbus_name = FREEDESKTOP_ERROR_PREFIX + "UnknownMethod"


def reject_call(call: IncomingCall) -> Reply:
    """Refuse a call; the handler of a connection that serves no methods. Raises UnknownMethod."""
    raise UnknownMethod(f"no method {call.interface}.{call.member} here")


class CallServer:
    """Runs the handler for each call and sends its reply or its error.

    Args:
        send: puts a message on the bus. Raises BusLost when the connection is gone.
        send_reply: sends the reply to a call, with a signature, a body and its encoding, if known; raises BusLost too.
    """

    def __init__(self, send: Callable[[Message], None], send_reply: SendReply) -> None:
        self._send, self._send_reply = send, send_reply
        self._handler: Handler = reject_call
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str, dict[int, _WaitingCall]] = {}
        self._total = self._last_number = 0
        self._closing = False

    def serve(self, handler: Handler) -> None:
        """Set the handler for all later calls."""
        self._handler = handler

    def accept(self, message: Message) -> None:
        """Answer one method call with the handler. Never raises: every failure becomes an error reply."""
        try:
            self._accept(message, self._handler)
        except Exception as error:
            self._answer_error(message, error)

    def accept_with(self, message: Message, handler: Handler) -> None:
        """Answer one method call with another handler, under the same caps. Never raises."""
        try:
            self._accept(message, handler)
        except Exception as error:
            self._answer_error(message, error)

    def refuse_oversized(self, message: Message, limit_bytes: int) -> None:
        """Answer a call whose arguments were not parsed because of their size. Never raises."""
        self._answer_error(message, LimitsExceeded(f"the arguments of a call have at most {limit_bytes >> 10} KiB"))

    def cancel_calls_of(self, sender: str) -> None:
        """Cancel the waiting calls of a client that left the bus."""
        # A copy, since calls that end are removed.
        for number in tuple(self._waiting.get(sender, ())):
            self._cancel(sender, number)

    async def close(self) -> None:
        """End all waiting calls with ShuttingDown, and wait up to CANCEL_TIMEOUT_SEC for them to end."""
        self._closing = True  # first, so that no call is accepted while the others end
        waiting = [(sender, number) for sender, calls in self._waiting.items() for number in calls]
        tasks = [self._cancel(sender, number) for sender, number in waiting]
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_SEC)

    def _cancel(self, sender: str, number: int) -> asyncio.Task[None]:
        call = self._waiting[sender][number]
        # Only here: a callback of every task would cost another turn of the event loop for each call.
        call.task.add_done_callback(lambda _: self._on_cancelled_task(number, call))
        call.task.cancel()
        return call.task

    def _accept(self, message: Message, handler: Handler) -> None:
        # No method takes file descriptors, and the connection is opened without support for them.
        if "h" in message.signature:
            raise InvalidArgs("file descriptors are not accepted")
        if self._closing:
            raise ShuttingDown("gpumand is stopping")
        answer = handler(_to_incoming_call(message))
        # A Reply is sent at once, so that methods that only read keep answering when the caps are reached.
        if isinstance(answer, Reply):
            self._answer(message, answer)
        else:
            self._wait(message, answer)

    def _wait(self, message: Message, answer: Awaitable[Reply]) -> None:
        """Await the answer in a new task, unless the caps on waiting calls are reached."""
        sender = message.sender or ""
        # One client must not use up the tasks that all clients share.
        try:
            self._check_caps(len(self._waiting.get(sender, ())))
        except LimitsExceeded:
            _discard(answer)
            raise
        self._last_number = number = self._last_number + 1
        task = self._loop.create_task(self._run(message, answer, number))
        self._waiting.setdefault(sender, {})[number] = _WaitingCall(task, message, answer)
        self._total += 1

    def _check_caps(self, sender_count: int) -> None:
        if sender_count >= MAX_WAITING_PER_SENDER:
            raise LimitsExceeded(f"this connection already has {sender_count} waiting calls, which is the limit")
        if self._total >= MAX_WAITING:
            raise LimitsExceeded(f"{self._total} calls are waiting already, which is the limit of the daemon")

    async def _run(self, message: Message, answer: Awaitable[Reply], number: int) -> None:
        try:
            self._answer(message, await answer)
        except Exception as error:
            self._answer_error(message, error)
        finally:
            self._untrack(message.sender or "", number)

    def _on_cancelled_task(self, number: int, call: _WaitingCall) -> None:
        # A task that is cancelled before its first step never runs _run, so the error is sent from here.
        self._untrack(call.message.sender or "", number)
        if call.task.cancelled():
            self._answer_cancelled(call.message, call.answer)

    def _answer_cancelled(self, message: Message, answer: Awaitable[Reply]) -> None:
        _discard(answer)
        error = ShuttingDown("gpumand is stopping") if self._closing else GpumandError("the call was cancelled")
        self._answer_error(message, error)

    def _untrack(self, sender: str, number: int) -> None:
        """Note that a call does not wait any more; one of which that is known already is ignored."""
        waiting = self._waiting.get(sender)
        if waiting is None or waiting.pop(number, None) is None:
            return
        self._total -= 1
        if not waiting:
            del self._waiting[sender]

    def _answer(self, message: Message, reply: Reply) -> None:
        if not expects_reply(message):
            return
        # A NUL would be sent without complaint, and the bus would close the connection for all clients.
        if not reply.checked:
            require_no_nul(reply.body)
        try:
            self._send_reply(message, reply.signature, list(reply.body), reply.content)
        except BusLost:
            return  # without the bus there is no caller left that could receive the reply

    def _answer_error(self, message: Message, error: Exception) -> None:
        """Send a GpumandError as it is; log any other exception and send "internal error", which reveals nothing."""
        if isinstance(error, GpumandError):
            name, text = error.dbus_name, with_name(error.dbus_name, one_line(error.message))
        else:
            log.error("%s.%s failed", message.interface, message.member, exc_info=error)
            name, text = GpumandError.dbus_name, "internal error"
        if expects_reply(message):
            self._send_error(message, name, text)

    def _send_error(self, message: Message, name: str, text: str) -> None:
        # Nothing is left to answer with if even this fails; the exception must not reach dbus-fast's reader.
        try:
            with contextlib.suppress(BusLost):
                self._send(Message.new_error(message, name, text))
        except Exception:
            log.exception("the error reply %s could not be sent", name)


def expects_reply(message: Message) -> bool:
    """Whether the caller expects a reply."""
    return not _has_flag(message, MessageFlag.NO_REPLY_EXPECTED)


def _has_flag(message: Message, flag: MessageFlag) -> bool:
    flags = message.flags
    # Nearly all calls have no flags, and reading the value of an enum is slow.
    return flags is not NO_FLAGS and bool(flags.value & flag.value)


def _to_incoming_call(message: Message) -> IncomingCall:
    assert message.message_type is MessageType.METHOD_CALL
    return IncomingCall(
        sender=message.sender or "",
        path=message.path or "",
        interface=message.interface or "",
        member=message.member or "",
        signature=message.signature,
        body=tuple(message.body),
        interactive=_has_flag(message, MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION),
    )


def _discard(answer: Awaitable[Reply]) -> None:
    """Close an awaitable that will not be awaited, which avoids Python's "never awaited" warning."""
    if inspect.iscoroutine(answer):
        answer.close()
    elif isinstance(answer, asyncio.Future):
        answer.cancel()
