"""The Clock port, for the busy checks."""

from __future__ import annotations

import asyncio
import time


class GatewayClock:
    """The clocks of the kernel. They do not count the time during which the host is suspended."""

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC in seconds."""
        return time.monotonic()

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""
        return time.time_ns() // 1000

    def suspended_sec(self) -> float:
        """Always 0."""
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds."""
        await asyncio.sleep(max(seconds, 0.0))
