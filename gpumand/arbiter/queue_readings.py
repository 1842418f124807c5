"""Readings of VRAM that waiting requests need before they can be decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.timeouts import finished_within

CROWD, PAUSE_SEC = 16, 0.02
"""While this many requests wait, all readings begin this many seconds after each other at the earliest.

While fewer wait, only those readings do that no known change of the state asks for.
"""

PASSES, MAX_PAUSE_SEC = 10.0, 0.1
"""They also begin this many times as long after each other as the last queue pass took, but no longer than that."""


class QueueReadings:
    """Takes readings in the background, one at a time; one reading serves all requests that wait for one.

    Args:
        state: the arbiter's state.
        queue: the waiting requests.
        background: runs the readings.
        after_reading: called after each reading, to decide the waiting requests on it.
    """

    def __init__(
        self, state: ArbiterState, queue: Sized, background: BackgroundTasks, after_reading: Callable[[], None]
    ) -> None:
        self._state, self._queue, self._background, self._after_reading = state, queue, background, after_reading
        self._is_running = False
        self._hurry: asyncio.Event | None = None
        self._pass_sec = 0.0

    def request(self, pause_sec: float = 0.0) -> None:
        """Start a reading and a queue pass after it, unless one is running already.

        Args:
            pause_sec: seconds until then; above 0 it is another attempt after a reading that failed.
        """
        if not self._is_running:
            self._start(pause_sec or self._crowd_pause_sec(), again=pause_sec > 0)
        elif self._hurry is not None and not pause_sec and not self._is_crowd:
            self._hurry.set()

    def request_soon(self) -> None:
        """Like ``request``, for requests that wait as before as far as the state shows: readings keep a distance.

        The end of a lease that changes nothing is of this kind, and happens hundreds of times in a second. The first
        one after a while is read at once, and a change during the pause ends it.
        """
        if not self._is_running:
            self._start(self._pause_sec(), again=False, hurry=None if self._is_crowd else asyncio.Event())

    @property
    def _is_crowd(self) -> bool:
        return len(self._queue) >= CROWD

    def _crowd_pause_sec(self) -> float:
        """Seconds until the next reading while many requests wait.

        Each of their grants and releases asks for one, and readings without a pause would cost more than the rest.
        """
        return self._pause_sec() if self._is_crowd else 0.0

    def _pause_sec(self) -> float:
        since_sec = self._state.clock.monotonic() - self._state.sampled_at
        return max(0.0, max(PAUSE_SEC, min(MAX_PAUSE_SEC, PASSES * self._pass_sec)) - since_sec)

    def _start(self, pause_sec: float, *, again: bool, hurry: asyncio.Event | None = None) -> None:
        self._is_running, self._hurry = True, hurry
        self._background.spawn(self._sample(pause_sec, again=again))

    async def _sample(self, pause_sec: float, *, again: bool) -> None:
        try:
            if pause_sec:
                await self._pause(pause_sec)
            self._hurry = None
            await self._state.sample(again=again)
        finally:
            self._is_running, self._hurry = False, None
        began_at = self._state.clock.monotonic()
        self._after_reading()
        self._pass_sec = self._state.clock.monotonic() - began_at

    async def _pause(self, pause_sec: float) -> None:
        if self._hurry is None:
            await self._state.clock.sleep(pause_sec)
        else:
            await finished_within(self._state.clock, self._hurry.wait(), pause_sec)
