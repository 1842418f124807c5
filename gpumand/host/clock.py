"""The Clock port on the clocks of the kernel."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The Clock port on the clocks of the kernel.

    ``monotonic`` stops while the host is suspended, so that no request times out meanwhile. ``realtime_usec`` goes on,
    so that a lease ends at its announced expiry, or right after the host resumes.
    """

    monotonic = staticmethod(time.monotonic)
    """CLOCK_MONOTONIC in seconds."""

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""
        return time.time_ns() // 1000

    def suspended_sec(self) -> float:
        """Difference between CLOCK_BOOTTIME, which counts time spent suspended, and CLOCK_MONOTONIC, which does not."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds, and after at least one iteration of the event loop."""
        await asyncio.sleep(max(seconds, 0.0))
