"""A clock with virtual time, which a test controls."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from itertools import count
from typing import Any

EPOCH_USEC = 1_700_000_000_000_000
"""2023-11-14T22:13:20Z, the start of virtual wall clocks."""

SETTLE_TURNS = 100_000
"""Number of iterations after which an event loop that is still busy is assumed to be in an endless loop."""

NSEC = 1_000_000_000


class FakeClock:
    """A Clock with virtual time, deterministic on one asyncio event loop.

    Time does not pass by itself: ``advance`` moves it and wakes sleeping tasks in the order of their deadlines. With
    ``autojump`` the clock jumps to the next deadline whenever no task can run, so a test simply awaits a result.

    The clock does not see real sockets, threads and ``asyncio.sleep``, so code under test must wait for this clock
    only. Use at most one clock with ``autojump`` per event loop.

    Args:
        autojump: jump to the next deadline when no task can run.
        start_sec: initial value of ``monotonic``; not 0, which means "never" in several places.
        start_usec: initial value of ``realtime_usec``.
    """

    def __init__(self, *, autojump: bool = False, start_sec: float = 1000.0, start_usec: int = EPOCH_USEC) -> None:
        # Integers avoid rounding errors: ten sleeps of 0.1 s are exactly one second.
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
        """Number of tasks that sleep on this clock."""
        return sum(not waiter.done() for _, _, waiter in self._waiters)

    def monotonic(self) -> float:
        """Return the virtual monotonic time in seconds."""
        return self._now_nsec / NSEC

    def boottime(self) -> float:
        """Return the virtual monotonic time with the time spent suspended, in seconds."""
        return (self._now_nsec + self._suspended_nsec) / NSEC

    def realtime_usec(self) -> int:
        """Return the virtual wall clock in microseconds."""
        return (self._now_nsec + self._realtime_offset_nsec) // 1000

    def step_realtime(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative, as NTP or an administrator may do."""
        self._realtime_offset_nsec += _nsec(seconds)

    def suspended_sec(self) -> float:
        """Return the total virtual seconds of suspends so far."""
        return self._suspended_nsec / NSEC

    def suspend(self, seconds: float) -> None:
        """Simulate a suspend: the wall clock advances, ``monotonic`` and sleeping tasks do not."""
        self._suspended_nsec += _nsec(seconds)
        self.step_realtime(seconds)

    async def sleep(self, seconds: float) -> None:
        """Return after this many virtual seconds, and after at least one iteration of the event loop."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        waiter = asyncio.get_running_loop().create_future()
        if not math.isinf(seconds):
            # At least 1 ns: a task that sleeps for the rounding error that is left until its deadline would otherwise
            # sleep for no time and never reach the deadline.
            until_nsec = self._now_nsec + max(1, _nsec(seconds))
            heapq.heappush(self._waiters, (until_nsec, next(self._order), waiter))
            self._watch()
        await waiter

    async def advance(self, seconds: float) -> None:
        """Advance the time: run all ready tasks, then wake sleeping tasks in the order of their deadlines.

        Raises RuntimeError if the event loop never becomes idle.
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
        """Run all tasks that can run without time passing."""
        await self.advance(0)

    async def advance_until(self, condition: Callable[[], bool], within_sec: float = 3600.0) -> None:
        """Advance from deadline to deadline until the condition is true.

        Raises TimeoutError if it is not true after ``within_sec`` virtual seconds, or if no task has a deadline.
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
        raise RuntimeError(f"the event loop is still busy after {SETTLE_TURNS} iterations")

    def _next_deadline(self) -> int | None:
        while self._waiters and self._waiters[0][2].done():  # the task was cancelled
            heapq.heappop(self._waiters)
        return self._waiters[0][0] if self._waiters else None

    def _fire(self, deadline_nsec: int) -> None:
        """Set the time to a deadline and wake all tasks that wait for it, in the order in which they went to sleep."""
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
    """Return whether any callback other than the running one is ready."""
    # asyncio has no public interface for this. ``_ready`` exists in its event loops from Python 3.4 to 3.14 and
    # contains the remaining callbacks of this iteration and those of the next. A loop without it raises AttributeError.
    ready: Any = loop._ready  # type: ignore[attr-defined]  # private, see above
    return len(ready) > 0
