"""Limits how many calls to systemd and to polkit are unanswered at the same time.

A bus refuses a call with LimitsExceeded when too many calls of the connection are unanswered: dbus-daemon allows 128 on
the system bus (``max_replies_per_connection``). It counts a call until its reply arrives, also after the caller has
stopped waiting, so a peer that hangs would use up the calls to every other peer. Other peers are called seldom, or are
gpumand itself, whose answer to a waiting request may take as long as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict, deque

from gpumand.bus.names import POLKIT, SYSTEMD

LIMITED = frozenset({SYSTEMD, POLKIT})
MAX_UNANSWERED = 56
"""Unanswered calls to each of the two, which leaves 16 of 128 to others. Polkit gets at most 48 checks at once, so
that a check can still be cancelled."""


class CallSlots:
    """The unanswered calls of one connection, by their destination.

    Args:
        limit: how many calls to one destination may be unanswered.
    """

    def __init__(self, limit: int = MAX_UNANSWERED) -> None:
        self._limit = limit
        self._used: Counter[str] = Counter()
        self._destinations: dict[int, str] = {}
        self._waiting: defaultdict[str, deque[asyncio.Future[None]]] = defaultdict(deque)

    async def take(self, destination: str, serial: int) -> None:
        """Wait until a call may be sent, first come, first served, and count it as unanswered."""
        if destination not in LIMITED:
            return
        if self._used[destination] >= self._limit:
            await self._wait(destination)
        else:
            self._used[destination] += 1
        self._destinations[serial] = destination

    def release(self, serial: int) -> None:
        """Count a call as answered, or as not sent; harmless for a call that is not counted."""
        destination = self._destinations.pop(serial, None)
        if destination is not None:
            self._free(destination)

    def release_all(self) -> None:
        """Let all calls continue, because the connection is gone."""
        for waiting in self._waiting.values():
            for turn in waiting:
                if not turn.done():
                    turn.set_result(None)
        self._waiting.clear()

    async def _wait(self, destination: str) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._waiting[destination]
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The slot may have been handed over in the same iteration of the event loop.
            if turn.done() and not turn.cancelled():
                self._free(destination)
            with contextlib.suppress(ValueError):
                waiting.remove(turn)
            raise

    def _free(self, destination: str) -> None:
        """Hand the slot over to the call that has waited longest, or free it."""
        waiting = self._waiting[destination]
        while waiting:
            turn = waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._used[destination] -= 1
        if not self._used[destination]:
            del self._used[destination]
