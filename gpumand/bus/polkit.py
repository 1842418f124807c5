"""Authorization of callers on the system bus with polkit.

The subject of a check is always the caller's unique bus name, never its pid, which may belong to another process when
polkit looks it up (CVE-2013-4288). A check can take as long as it takes to type a password, so it runs in the task of
its own call and delays no other call. Results are not cached: polkit decides how long an authorization is valid.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from typing import Any

from dbus_fast import Variant

from gpumand.bus.authorization import (
    Action,
    Details,
    UserNames,
    advice_for,
    describe_action,
    describe_denial,
    describe_user,
    is_allowed_without_asking,
    join_advice,
)
from gpumand.bus.concurrency_limit import ConcurrencyLimiter
from gpumand.bus.connection import BusConnection, BusError, BusLost, BusTimeout, Signal
from gpumand.bus.names import DBUS, DBUS_PATH, POLKIT, POLKIT_AUTHORITY, POLKIT_PATH
from gpumand.domain.errors import (
    FREEDESKTOP_ERROR_PREFIX,
    AccessDenied,
    InteractiveAuthorizationRequired,
    LimitsExceeded,
)
from gpumand.domain.lease import Owner

CHECK_TIMEOUT_SEC = 120.0
"""How long to wait for polkit, including the time in which a person types a password."""

CANCEL_TIMEOUT_SEC = 5.0
RETRY_DELAY_SEC = 0.3
"""Delay before a retry after polkit exited, so that systemd notices the exit first. If systemd is asked to start polkit
earlier, it takes polkit for running, and the bus waits 25 s for it in vain."""

MAX_CHECKS = 48
MAX_CHECKS_PER_UID = 16
"""Concurrent checks in total and for each user. The bus allows 128 pending replies for each connection, and calls to
systemd must remain possible while polkit hangs."""

MAX_WAITING_PER_UID = 128
"""Waiting calls of one user. They count towards the limit on all waiting calls, which one user must not use up."""

ALLOW_USER_INTERACTION = 1
MAX_REASON_CHARS = 200

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The result of a polkit check.

    Attributes:
        allowed: the caller is authorized.
        challenge: the caller would be authorized after a password dialog.
        dismissed: the dialog was shown and dismissed.
    """

    allowed: bool
    challenge: bool
    dismissed: bool


class PolkitAuthority:
    """Decides by asking polkit.

    Without polkit only root, lease owners and a consumer's own unit are allowed.

    Args:
        connection: the connection to the bus that the callers and polkit are on.
        users: names users in error messages.
        timeout_sec: how long one check may take.
    """

    def __init__(self, connection: BusConnection, users: UserNames, timeout_sec: float = CHECK_TIMEOUT_SEC) -> None:
        self.trusted_uids = frozenset({0})
        self._connection = connection
        self._users = users
        self._timeout_sec = timeout_sec
        self._cancellation_numbers = itertools.count(1)
        self._limiter = ConcurrencyLimiter(MAX_CHECKS, MAX_CHECKS_PER_UID, MAX_WAITING_PER_UID)
        self._cancelling: set[asyncio.Task[None]] = set()
        self._was_reachable = True

    async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
        """Check a call as described in ``Authority``.

        Raises:
            AccessDenied, InteractiveAuthorizationRequired: see ``Authority``.
            LimitsExceeded: too many calls wait for polkit.
        """
        # Root must be able to use gpumand when polkit is missing or hangs.
        if caller.uid in self.trusted_uids or is_allowed_without_asking(caller, action, details):
            return
        try:
            answer = await self._check_while_connected(caller, action, details, interactive)
        except BusError as error:
            self._log_reachability(error.message)
            denial = await describe_denial(self._users, caller, details)
            why = f"polkit cannot be asked ({error.message[:MAX_REASON_CHARS]})"
            # The group is no help here: it is polkit that knows its permissions.
            raise AccessDenied(f"{denial}: {why}. Start polkit, or use sudo.") from error
        self._log_reachability("")
        if not answer.allowed:
            raise await self._refusal(answer, caller, action, details, interactive)

    async def _refusal(
        self, answer: _Answer, caller: Owner, action: Action, details: Details, interactive: bool
    ) -> AccessDenied | InteractiveAuthorizationRequired:
        """Return the error for a caller that polkit does not allow, with the ways to get permission."""
        advice = await advice_for(self._users, caller, action, details)
        if answer.challenge and not interactive:
            return InteractiveAuthorizationRequired(
                f"Authentication required: {await describe_user(self._users, caller.uid)} must authenticate to "
                f"{await describe_action(self._users, details)} ({action}), but the call does not allow interactive "
                f"authorization. {join_advice(['set the message flag ALLOW_INTERACTIVE_AUTHORIZATION', *advice])}"
            )
        denial = await describe_denial(self._users, caller, details)
        if answer.dismissed:
            retry = "retry and enter the password of an administrator"
            return AccessDenied(f"{denial}: the password dialog was dismissed. {join_advice([retry, *advice])}")
        why = ": no authentication agent is running that could ask for a password" if answer.challenge else ""
        return AccessDenied(f"{denial}{why}. {join_advice(advice)}")

    async def _check_while_connected(
        self, caller: Owner, action: Action, details: Details, interactive: bool
    ) -> _Answer:
        """Ask polkit, and give up when the caller leaves the bus.

        The watch is set up before polkit is asked: a caller that left earlier is unknown to polkit, which refuses it.
        All checks share one match rule, so that many checks do not use up the connection's match rules.
        """
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def changed(signal: Signal) -> None:
            if signal.body[:1] == (caller.bus_name,) and not gone.done():
                gone.set_result(None)

        watch = await self._connection.subscribe(
            callback=changed, sender=DBUS, path=DBUS_PATH, interface=DBUS, member="NameOwnerChanged"
        )
        check = asyncio.ensure_future(self._check_with_limit(caller, action, details, interactive))
        pending: list[asyncio.Future[Any]] = [check, gone]
        try:
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            # This holds even if polkit has answered: the caller's unique name is never used again.
            if gone.done():
                raise AccessDenied("the caller has left the bus")
            return check.result()
        finally:
            # Also when this call is cancelled: then polkit must close its password dialog.
            await watch.cancel()
            await _end_check(check)

    async def _check_with_limit(self, caller: Owner, action: Action, details: Details, interactive: bool) -> _Answer:
        """Wait for a free slot, for at most the time of one check, then ask polkit."""
        # Without the timeout, calls behind checks that hang would wait several times as long as one check may take.
        try:
            async with asyncio.timeout(self._timeout_sec) as limit, self._limiter.slot(caller.uid):
                limit.reschedule(None)  # the call to polkit has its own timeout
                return await self._check_with_retry(caller.bus_name, action, details, interactive)
        except TimeoutError:
            raise LimitsExceeded(
                f"polkit did not check this call within {self._timeout_sec:g} s: too many calls are waiting. Try again."
            ) from None

    async def _check_with_retry(self, name: str, action: Action, details: Details, interactive: bool) -> _Answer:
        """Ask polkit, and ask once more if it exited during the check, since it may be restarting."""
        try:
            return await self._check_once(name, action, details, interactive)
        except BusError as error:
            # The bus sends NoReply when a called peer exits. BusTimeout has the same name, but polkit still runs then.
            if isinstance(error, BusTimeout) or error.name != FREEDESKTOP_ERROR_PREFIX + "NoReply":
                raise
        log.info("polkit exited during a check; asking again")
        await asyncio.sleep(RETRY_DELAY_SEC)
        return await self._check_once(name, action, details, interactive)

    async def _check_once(self, name: str, action: Action, details: Details, interactive: bool) -> _Answer:
        cancellation_id = f"gpumand-{next(self._cancellation_numbers)}"
        subject = ["system-bus-name", {"name": Variant("s", name)}]
        flags = ALLOW_USER_INTERACTION if interactive else 0
        body = (subject, action.value, details.polkit_details(), flags, cancellation_id)
        try:
            reply = await self._connection.call(
                *(POLKIT, POLKIT_PATH, POLKIT_AUTHORITY, "CheckAuthorization", "(sa{sv})sa{ss}us", body),
                timeout_sec=self._timeout_sec,
            )
        except (BusTimeout, asyncio.CancelledError):
            # polkit still works on the check, and may show a password dialog that no call waits for.
            self._cancel_soon(cancellation_id)
            raise
        return _parse_answer(reply)

    def _cancel_soon(self, cancellation_id: str) -> None:
        """Ask polkit to close its password dialog, since the result is not needed; does not wait for the reply."""
        # The set keeps a reference to the running task, since asyncio itself holds none.
        task = asyncio.get_running_loop().create_task(self._cancel(cancellation_id))
        self._cancelling.add(task)
        task.add_done_callback(self._cancelling.discard)

    async def _cancel(self, cancellation_id: str) -> None:
        where = (POLKIT, POLKIT_PATH, POLKIT_AUTHORITY, "CancelCheckAuthorization")
        try:
            await self._connection.call(*where, "s", (cancellation_id,), timeout_sec=CANCEL_TIMEOUT_SEC)
        except (BusError, BusLost) as error:
            log.debug("a polkit check could not be cancelled: %s", error)

    def _log_reachability(self, problem: str) -> None:
        """Log when polkit becomes unreachable and when it answers again, not every failed call in between."""
        if problem and self._was_reachable:
            log.warning(
                "polkit cannot be asked, so only root, lease owners and a consumer's own unit are allowed: %s", problem
            )
        elif not problem and not self._was_reachable:
            log.info("polkit answers again")
        self._was_reachable = not problem


async def _end_check(check: asyncio.Future[_Answer]) -> None:
    """Cancel a check and wait for its end; the exception of a failed check is read, so asyncio does not warn of it."""
    check.cancel()
    await asyncio.wait({check})
    if not check.cancelled():
        check.exception()


def _parse_answer(reply: tuple[object, ...]) -> _Answer:
    """Parse the reply of CheckAuthorization. Raises BusError if it is malformed."""
    match reply:
        case ([bool(allowed), bool(challenge), dict(result)],):
            return _Answer(allowed, challenge, bool(result.get("polkit.dismissed")))
        case _:
            raise BusError(FREEDESKTOP_ERROR_PREFIX + "InvalidArgs", "polkit's reply is malformed")
