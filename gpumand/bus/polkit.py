"""Who may do what on the system bus: root, whoever needs no permission, and whom polkit allows.

The subject is always the caller's unique bus name, never a pid, which somebody else may have by the time polkit looks
(CVE-2013-4288). A question may take as long as a person takes to type a password, so each is asked in the task of its
own call and nothing else waits for it. What was answered is never kept: polkit itself knows for how long it holds.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Any

from dbus_fast import Variant

from gpumand.bus.authorization import Action, Details, deed, needs_no_permission, refusal
from gpumand.bus.concurrency_limit import ConcurrencyLimiter
from gpumand.bus.connection import BusConnection, BusError, BusLost, BusTimeout, Signal
from gpumand.bus.names import DBUS, DBUS_PATH, POLKIT, POLKIT_AUTHORITY, POLKIT_PATH
from gpumand.domain.errors import FREEDESKTOP, AccessDenied, InteractiveAuthorizationRequired, LimitsExceeded
from gpumand.domain.lease import Owner

QUESTION_TIMEOUT_SEC = 120.0
"""How long polkit, and a person behind it, is waited for."""

CANCEL_TIMEOUT_SEC = 5.0
AGAIN_SEC = 0.3
"""How long systemd is given to see that polkit is dead. Asked to start it before that, it takes it for running, and the
bus waits 25 s for a polkit that does not come."""

MAX_QUESTIONS = 48
MAX_QUESTIONS_A_UID = 16
"""Asked at once: the bus lets a connection wait for 128 answers, and systemd must be asked while polkit hangs."""

MAX_WAITING_A_UID = 128
"""Calls that wait for polkit take of the places for all that wait: one user must not take them all."""

ALLOW_USER_INTERACTION = 1
MAX_REASON_CHARS = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What polkit said.

    Attributes:
        allowed: it may.
        challenge: it might, if somebody authenticated.
        dismissed: somebody was asked, and did not want to.
    """

    allowed: bool
    challenge: bool
    dismissed: bool


class PolkitAuthority:
    """Decides by asking polkit; where polkit cannot be asked, root may and nobody else.

    Args:
        connection: to the bus that callers and polkit are on.
        timeout_sec: how long one question may take.
    """

    def __init__(self, connection: BusConnection, timeout_sec: float = QUESTION_TIMEOUT_SEC) -> None:
        self.trusted_uids = frozenset({0})
        self._connection = connection
        self._timeout_sec = timeout_sec
        self._numbers = itertools.count(1)
        self._turns = ConcurrencyLimiter(MAX_QUESTIONS, MAX_QUESTIONS_A_UID, MAX_WAITING_A_UID)
        self._cancelling: set[asyncio.Task[None]] = set()
        self._was_reachable = True

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """See ``Authority``. Raises AccessDenied, InteractiveAuthorizationRequired and LimitsExceeded."""
        if caller.uid in self.trusted_uids or needs_no_permission(caller, action, details):
            return
        denied = f"{refusal(caller, action, details, 'root')}, and whom polkit allows {action}"
        try:
            answer = await self._ask_while_there(caller, action, details, interactive)
        except BusError as error:
            self._note_reachable(error.message)
            raise AccessDenied(f"{denied}; polkit cannot be asked: {error.message[:MAX_REASON_CHARS]}") from error
        self._note_reachable("")
        if answer.allowed:
            return
        if answer.challenge and not interactive:
            raise InteractiveAuthorizationRequired(
                f"uid {caller.uid} has to authenticate to {deed(action, details)} ({action}), and the call does not "
                "allow interactive authorization"
            )
        raise AccessDenied(denied + _why(answer))

    async def _ask_while_there(self, caller: Owner, action: Action, details: Details, interactive: bool) -> _Answer:
        """Ask, but not on behalf of somebody who has left.

        The bus tells of leavers before polkit is asked: whoever left earlier is unknown to polkit, which then refuses.
        All questions share one match rule, so that many of them do not use up those that a connection may have.
        """
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def changed(signal: Signal) -> None:
            if signal.body[:1] == (caller.bus_name,) and not gone.done():
                gone.set_result(None)

        watch = await self._connection.subscribe(
            callback=changed, sender=DBUS, path=DBUS_PATH, interface=DBUS, member="NameOwnerChanged"
        )
        question = asyncio.ensure_future(self._ask_in_turn(caller, action, details, interactive))
        either: list[asyncio.Future[Any]] = [question, gone]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():  # also where polkit answered: a name is never used again
                raise AccessDenied("the caller has left the bus")
            return question.result()
        finally:
            await watch.cancel()
            await _end(question)

    async def _ask_in_turn(self, caller: Owner, action: Action, details: Details, interactive: bool) -> _Answer:
        """Ask when not too many others are being asked about; that takes no longer than one question may."""
        try:
            async with asyncio.timeout(self._timeout_sec) as limit, self._turns.turn(caller.uid):
                limit.reschedule(None)  # the question has a time of its own
                return await self._ask(caller.bus_name, action, details, interactive)
        except TimeoutError:
            raise LimitsExceeded(
                f"polkit has too many calls to decide; not this one in {self._timeout_sec:g} s"
            ) from None

    async def _ask(self, name: str, action: Action, details: Details, interactive: bool) -> _Answer:
        """Ask, and once more where polkit went away while it was asked: it is being restarted."""
        try:
            return await self._ask_once(name, action, details, interactive)
        except BusError as error:
            if isinstance(error, BusTimeout) or error.name != FREEDESKTOP + "NoReply":
                raise
        log.info("polkit went away while it was asked; asking again")
        await asyncio.sleep(AGAIN_SEC)
        return await self._ask_once(name, action, details, interactive)

    async def _ask_once(self, name: str, action: Action, details: Details, interactive: bool) -> _Answer:
        question_id = f"gpumand-{next(self._numbers)}"
        subject = ["system-bus-name", {"name": Variant("s", name)}]
        flags = ALLOW_USER_INTERACTION if interactive else 0
        body = (subject, action.value, details.pairs(), flags, question_id)
        try:
            reply = await self._connection.call(
                *(POLKIT, POLKIT_PATH, POLKIT_AUTHORITY, "CheckAuthorization", "(sa{sv})sa{ss}us", body),
                timeout_sec=self._timeout_sec,
            )
        except (BusTimeout, asyncio.CancelledError):
            self._cancel_soon(question_id)
            raise
        return _answer(reply)

    def _cancel_soon(self, question_id: str) -> None:
        """Have polkit close its question: nobody waits for the answer any more, nor do we for this one."""
        task = asyncio.get_running_loop().create_task(self._cancel(question_id))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, question_id: str) -> None:
        where = (POLKIT, POLKIT_PATH, POLKIT_AUTHORITY, "CancelCheckAuthorization")
        try:
            await self._connection.call(*where, "s", (question_id,), timeout_sec=CANCEL_TIMEOUT_SEC)
        except (BusError, BusLost) as error:
            log.debug("a question to polkit could not be taken back: %s", error)

    def _note_reachable(self, problem: str) -> None:
        """Say when polkit fails and when it is back, not at every call that somebody makes in between."""
        if problem and self._was_reachable:
            log.warning("polkit cannot be asked, so only root may: %s", problem)
        elif not problem and not self._was_reachable:
            log.info("polkit answers again")
        self._was_reachable = not problem


async def _end(question: asyncio.Future[_Answer]) -> None:
    """End a question; one that failed meanwhile has failed for nobody."""
    question.cancel()
    await asyncio.wait({question})
    if not question.cancelled():
        question.exception()


def _answer(reply: tuple[object, ...]) -> _Answer:
    """What polkit said; raises BusError where it makes no sense."""
    match reply:
        case ([bool(allowed), bool(challenge), dict(said)],):
            return _Answer(allowed, challenge, bool(said.get("polkit.dismissed")))
        case _:
            raise BusError(FREEDESKTOP + "InvalidArgs", "polkit's answer is none")


def _why(answer: _Answer) -> str:
    """What a person should know besides."""
    if answer.dismissed:
        return "; the question was dismissed"
    return "; nobody could be asked: no authentication agent runs" if answer.challenge else ""
