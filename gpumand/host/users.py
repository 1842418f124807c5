"""Names of users by uid, looked up without blocking the event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gpumand.state.worker import Worker
from gpumand.vram.user_names import UserNameCache

LOOKUP_TIMEOUT_SEC = 1.0
"""How long a caller waits for a name. A directory service (LDAP, sssd) that is down can take minutes to answer."""

MAX_PENDING = 64
"""Lookups that may wait for the thread; further users stay unnamed, so that many callers cannot use up memory."""


class UserDirectory:
    """Finds user names in a thread of its own; a lookup that takes too long goes on for later callers.

    Args:
        timeout_sec: how long one call waits.
    """

    def __init__(self, timeout_sec: float = LOOKUP_TIMEOUT_SEC) -> None:
        self._timeout_sec = timeout_sec
        self._names, self._worker = UserNameCache(), Worker("gpumand-users")
        self._pending: dict[int, asyncio.Task[str]] = {}

    def cached(self, uid: int) -> str:
        """Return the login name of a user that was found before, without waiting; "" if it was not."""
        return self._names.cached(uid)

    async def name_of(self, uid: int) -> str:
        """Return the login name of a user; "" if it is unknown or was not found in time."""
        lookup = self._pending.get(uid)
        if lookup is None:
            if len(self._pending) >= MAX_PENDING:
                return ""
            lookup = self._pending[uid] = asyncio.create_task(self._look_up(uid))
            lookup.add_done_callback(lambda _: self._pending.pop(uid, None))
        # Unlike wait_for, asyncio.wait leaves the task running after the timeout and when this caller is cancelled.
        await asyncio.wait([lookup], timeout=self._timeout_sec)
        return lookup.result() if lookup.done() and not lookup.cancelled() else ""

    async def _look_up(self, uid: int) -> str:
        # OSError: the directory was closed, or the user database cannot be read.
        with suppress(OSError):
            return await self._worker.run(lambda: self._names.name_of(uid))
        return ""

    async def close(self) -> None:
        """End the thread; one that hangs in a directory service cannot be interrupted and is abandoned."""
        if not self._pending:
            await self._worker.close()
        for lookup in tuple(self._pending.values()):
            lookup.cancel()
