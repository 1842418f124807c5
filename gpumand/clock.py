"""The real time."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The Clock port over the kernel's clocks.

    ``monotonic`` stands still while the host is suspended, so that a suspended laptop does not expire leases that
    nobody could have used meanwhile.
    """

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds; at least once around the event loop."""
        await asyncio.sleep(max(seconds, 0.0))
