"""Time that a test holds in its hands."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any

EPOCH_USEC = 1_700_000_000_000_000
"""2023-11-14T22:13:20Z: where virtual wall clocks start."""

SETTLE_TURNS = 100_000
"""A loop that is still busy after so many turns runs in circles."""

NSEC = 1_000_000_000


class FakeClock:
    """The Clock port with virtual time, deterministic on one asyncio event loop.

    By itself time stands still: ``advance`` moves it, and fires what falls due on the way in order. With ``autojump``
    it jumps to the next deadline whenever no task can run otherwise, so a test simply awaits what it is after.

    "No task can run" knows nothing of real sockets, threads and ``asyncio.sleep``: code under this clock works over
    fakes that wait for nothing but this clock. One loop may have one clock that jumps.

    Args:
        autojump: jump to the next deadline when nothing else is runnable.
        start_sec: what ``monotonic`` says at first; not 0, which stands for "never" in several places.
        start_usec: what ``realtime_usec`` says at first.
    """

    def __init__(self, *, autojump: bool = False, start_sec: float = 1000.0, start_usec: int = EPOCH_USEC) -> None:
        # Whole nanoseconds: ten sleeps of 0.1 s are exactly one second.
        self._now_nsec = _nsec(start_sec)
        self._realtime_offset_nsec = start_usec * 1000 - self._now_nsec
        self._suspended_nsec = 0
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._order = count()
        self._autojump = autojump
        self._is_advancing = False
        self._is_watching = False

    @property
    def waiting(self) -> int:
        """How many tasks sleep on this clock."""
        return sum(not waiter.done() for _, _, waiter in self._waiters)

    def monotonic(self) -> float:
        """Virtual seconds."""
        return self._now_nsec / NSEC

    def realtime_usec(self) -> int:
        """The virtual wall clock in microseconds."""
        return (self._now_nsec + self._realtime_offset_nsec) // 1000

    def step_realtime(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative, as NTP or an administrator does."""
        self._realtime_offset_nsec += _nsec(seconds)

    def suspended_sec(self) -> float:
        """For how long it was suspended so far."""
        return self._suspended_nsec / NSEC

    def suspend(self, seconds: float) -> None:
        """Suspend the host for so long: the wall clock goes on, ``monotonic`` and those who sleep by it do not."""
        self._suspended_nsec += _nsec(seconds)
        self.step_realtime(seconds)

    async def sleep(self, seconds: float) -> None:
        """Return after so many virtual seconds; at least once around the event loop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter = asyncio.get_running_loop().create_future()
        if not math.isinf(seconds):
            # Never no time at all: who sleeps for what a float's last digit leaves to its deadline must get there.
            until_nsec = self._now_nsec + max(1, _nsec(seconds))
            heapq.heappush(self._waiters, (until_nsec, next(self._order), waiter))
            self._watch()
        await waiter

    async def advance(self, seconds: float) -> None:
        """Let so many virtual seconds pass: whatever is ready runs, then each deadline on the way in its turn.

        Raises RuntimeError when the loop never comes to rest.
        """
        until_nsec = self._now_nsec + _nsec(seconds)
        self._is_advancing = True
        try:
            await self._turn_until_idle()
            while (deadline_nsec := self._next_deadline()) is not None and deadline_nsec <= until_nsec:
                self._fire(deadline_nsec)
                await self._turn_until_idle()
            self._now_nsec = max(self._now_nsec, until_nsec)
        finally:
            self._is_advancing = False
            self._watch()

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        await self.advance(0)

    async def advance_until(self, condition: Callable[[], bool], within_sec: float = 3600.0) -> None:
        """Advance from deadline to deadline until the condition holds.

        Raises TimeoutError when it does not within so many virtual seconds, or when nobody waits for any deadline.
        """
        limit_nsec = self._now_nsec + _nsec(within_sec)
        await self.settle()
        while not condition():
            deadline_nsec = self._next_deadline()
            if deadline_nsec is None or deadline_nsec > limit_nsec:
                raise TimeoutError(f"the condition does not hold after {within_sec:g} virtual seconds")
            await self.advance((deadline_nsec - self._now_nsec) / NSEC)

    async def _turn_until_idle(self) -> None:
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)
            if not _runnable(asyncio.get_running_loop()):
                return
        raise RuntimeError(f"the event loop is still busy after {SETTLE_TURNS} turns")

    def _next_deadline(self) -> int | None:
        while self._waiters and self._waiters[0][2].done():  # cancelled meanwhile
            heapq.heappop(self._waiters)
        return self._waiters[0][0] if self._waiters else None

    def _fire(self, deadline_nsec: int) -> None:
        """Make it that time, and wake all who wait for it, in the order in which they went to sleep."""
        self._now_nsec = max(self._now_nsec, deadline_nsec)
        while self._next_deadline() == deadline_nsec:
            heapq.heappop(self._waiters)[2].set_result(None)

    def _watch(self) -> None:
        if self._autojump and not self._is_advancing and not self._is_watching:
            self._is_watching = True
            asyncio.get_running_loop().call_soon(self._jump_if_idle)

    def _jump_if_idle(self) -> None:
        self._is_watching = False
        deadline_nsec = self._next_deadline()
        if deadline_nsec is None or self._is_advancing:
            return
        if not _runnable(asyncio.get_running_loop()):
            self._fire(deadline_nsec)
        self._watch()


def _nsec(seconds: float) -> int:
    return round(seconds * NSEC)


def _runnable(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether anything but the caller can run now.

    asyncio has no public way to ask; ``_ready`` is in its event loops from 3.4 to 3.14 and holds what is left of this
    turn and what was scheduled for the next. A loop without it is an error here, not a guess.
    """
    ready: Any = loop._ready  # type: ignore[attr-defined]  # private, see above
    return len(ready) > 0
