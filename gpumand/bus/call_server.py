"""Method calls that others make: one handler, an answer for every call, and caps on those who wait."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType

from gpumand.bus.connection_errors import BusLost, one_line
from gpumand.bus.variants import require_no_nul
from gpumand.domain.errors import FREEDESKTOP, GpumandError, InvalidArgs, LimitsExceeded, ShuttingDown

log = logging.getLogger(__name__)

MAX_WAITING_A_SENDER = 128
MAX_WAITING = 2048
CANCEL_TIMEOUT_SEC = 2.0


@dataclass(frozen=True, slots=True)
class IncomingCall:
    """A method call as it came.

    Attributes:
        sender: the caller's unique name; the bus vouches for it.
        path: object path.
        interface: "" when the caller gave none.
        member: the method.
        signature: of the body.
        body: the arguments; variants are still the binding's Variants. Structs are lists or tuples by its version.
        interactive: the caller allows us to have a person asked.
    """

    sender: str
    path: str
    interface: str
    member: str
    signature: str
    body: tuple[Any, ...]
    interactive: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """What a method returns; structs in it are lists (1.84 takes no tuples)."""

    signature: str = ""
    body: tuple[Any, ...] = ()


Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]


class UnknownMethod(GpumandError):
    """There is no such method here."""

    dbus_name = FREEDESKTOP + "UnknownMethod"


def no_handler(call: IncomingCall) -> Reply:
    """Answers for a connection that serves nothing."""
    raise UnknownMethod(f"no method {call.interface}.{call.member} here")


class CallServer:
    """Runs the handler and sends what comes of it; ``send`` puts a message on the bus."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._handler: Handler = no_handler
        self._waiting: dict[str, set[asyncio.Task[None]]] = {}
        self._total = 0
        self._closing = False

    def serve(self, handler: Handler) -> None:
        """Give calls to this handler from now on."""
        self._handler = handler

    def accept(self, message: Message) -> None:
        """Deal with one method call. Never raises."""
        try:
            self._accept(message, self._handler)
        except Exception as error:
            self._answer_error(message, error)

    def accept_with(self, message: Message, handler: Handler) -> None:
        """Deal with one method call by another handler, under the same caps. Never raises."""
        try:
            self._accept(message, handler)
        except Exception as error:
            self._answer_error(message, error)

    def cancel_calls_of(self, sender: str) -> None:
        """End the waiting calls of a peer that left."""
        for task in tuple(self._waiting.get(sender, ())):
            task.cancel()

    async def close(self) -> None:
        """End all waiting calls with ShuttingDown, and wait for their ends, for a bounded time."""
        self._closing = True
        tasks = [task for tasks in self._waiting.values() for task in tasks]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_SEC)

    def _accept(self, message: Message, handler: Handler) -> None:
        if "h" in message.signature:
            raise InvalidArgs("file descriptors are not accepted")
        if self._closing:
            raise ShuttingDown("gpumand is stopping")
        answer = handler(_incoming(message))
        if isinstance(answer, Reply):
            self._answer(message, answer)
        else:
            self._wait(message, answer)

    def _wait(self, message: Message, answer: Awaitable[Reply]) -> None:
        """Wait for the answer in a task of its own, unless too many do so already."""
        sender = message.sender or ""
        try:
            self._check_caps(len(self._waiting.get(sender, ())))
        except LimitsExceeded:
            _discard(answer)
            raise
        task = asyncio.ensure_future(self._run(message, answer))
        self._waiting.setdefault(sender, set()).add(task)
        self._total += 1
        task.add_done_callback(lambda done: self._ended(message, answer, done))

    def _check_caps(self, of_sender: int) -> None:
        if of_sender >= MAX_WAITING_A_SENDER:
            raise LimitsExceeded(f"{of_sender} calls of this connection are waiting already")
        if self._total >= MAX_WAITING:
            raise LimitsExceeded(f"{self._total} calls are waiting already")

    async def _run(self, message: Message, answer: Awaitable[Reply]) -> None:
        try:
            self._answer(message, await answer)
        except Exception as error:
            self._answer_error(message, error)

    def _ended(self, message: Message, answer: Awaitable[Reply], task: asyncio.Task[None]) -> None:
        self._forget(message.sender or "", task)
        if task.cancelled():  # perhaps before its first step, so the answer is given from here
            self._cancelled(message, answer)

    def _cancelled(self, message: Message, answer: Awaitable[Reply]) -> None:
        _discard(answer)
        why = ShuttingDown("gpumand is stopping") if self._closing else GpumandError("the call was cancelled")
        self._answer_error(message, why)

    def _forget(self, sender: str, task: asyncio.Task[None]) -> None:
        self._total -= 1
        waiting = self._waiting[sender]
        waiting.discard(task)
        if not waiting:
            del self._waiting[sender]

    def _answer(self, message: Message, reply: Reply) -> None:
        if not expects_reply(message):
            return
        require_no_nul(reply.body)
        self._put(Message.new_method_return(message, reply.signature, list(reply.body)))

    def _answer_error(self, message: Message, error: Exception) -> None:
        """Errors of ours go out as they are; of anything else the caller learns nothing."""
        if isinstance(error, GpumandError):
            name, text = error.dbus_name, one_line(error.message)
        else:
            log.error("%s.%s failed", message.interface, message.member, exc_info=error)
            name, text = GpumandError.dbus_name, "internal error"
        if expects_reply(message):
            self._send_error(message, name, text)

    def _send_error(self, message: Message, name: str, text: str) -> None:
        try:
            self._put(Message.new_error(message, name, text))
        except Exception:
            log.exception("the error %s cannot be sent", name)

    def _put(self, message: Message) -> None:
        """Send; where the bus is gone, so is whoever asked."""
        with contextlib.suppress(BusLost):
            self._send(message)


def expects_reply(message: Message) -> bool:
    """Whether the caller wants an answer at all."""
    return not message.flags.value & MessageFlag.NO_REPLY_EXPECTED.value


def _incoming(message: Message) -> IncomingCall:
    assert message.message_type is MessageType.METHOD_CALL
    return IncomingCall(
        sender=message.sender or "",
        path=message.path or "",
        interface=message.interface or "",
        member=message.member or "",
        signature=message.signature,
        body=tuple(message.body),
        interactive=bool(message.flags.value & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION.value),
    )


def _discard(answer: Awaitable[Reply]) -> None:
    """Drop an answer that nobody will await."""
    if inspect.iscoroutine(answer):
        answer.close()
    elif isinstance(answer, asyncio.Future):
        answer.cancel()
