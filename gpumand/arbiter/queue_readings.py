"""Readings of VRAM that waiting requests need before they can be decided."""

from __future__ import annotations

from collections.abc import Callable, Sized

from gpumand.arbiter.background import BackgroundTasks
from gpumand.arbiter.state import ArbiterState

CROWD, CROWD_PAUSE_SEC = 16, 0.02
"""While this many requests wait, readings begin this many seconds after each other at the earliest."""

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
        self._pass_sec = 0.0

    def request(self, pause_sec: float = 0.0) -> None:
        """Start a reading and a queue pass after it, unless one is running already.

        Args:
            pause_sec: seconds until then; above 0 it is another attempt after a reading that failed.
        """
        if not self._is_running:
            self._is_running = True
            self._background.spawn(self._sample(pause_sec or self._crowd_pause_sec(), again=pause_sec > 0))

    def _crowd_pause_sec(self) -> float:
        """Seconds until the next reading while many requests wait.

        Each of their grants and releases asks for one, and readings without a pause would cost more than the rest.
        """
        since_sec = self._state.clock.monotonic() - self._state.sampled_at
        pause_sec = max(CROWD_PAUSE_SEC, min(MAX_PAUSE_SEC, PASSES * self._pass_sec))
        return max(0.0, pause_sec - since_sec) if len(self._queue) >= CROWD else 0.0

    async def _sample(self, pause_sec: float, *, again: bool) -> None:
        try:
            if pause_sec:
                await self._state.clock.sleep(pause_sec)
            await self._state.sample(again=again)
        finally:
            self._is_running = False
        began_at = self._state.clock.monotonic()
        self._after_reading()
        self._pass_sec = self._state.clock.monotonic() - began_at
