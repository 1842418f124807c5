"""The real time."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The Clock port over the kernel's clocks.

    ``monotonic`` stands still while the host is suspended, so that nobody's waiting time runs out meanwhile;
    ``realtime_usec`` does not, and a lease ends at the moment that was promised, or right after it in the morning.
    """

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""
        return time.time_ns() // 1000

    def suspended_sec(self) -> float:
        """By how much CLOCK_BOOTTIME has run ahead of CLOCK_MONOTONIC."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        """Return after so many seconds; at least once around the event loop."""
        await asyncio.sleep(max(seconds, 0.0))
