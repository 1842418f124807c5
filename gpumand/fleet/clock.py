"""The clock of the fleet: it goes on while the host is suspended, so that a host that resumes knows what it missed."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Source of time; tests replace it by a clock that they control."""

    def boottime(self) -> float:
        """Seconds since an arbitrary fixed moment, time spent suspended included; never decreases."""

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds, which an administrator or NTP may set back."""

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds in which the host was not suspended."""


class BoottimeClock:
    """The clocks of the kernel."""

    def boottime(self) -> float:
        """CLOCK_BOOTTIME in seconds. CLOCK_MONOTONIC stops while the host is suspended, but leases of etcd do not."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def realtime_usec(self) -> int:
        """CLOCK_REALTIME in microseconds."""
        return time.time_ns() // 1000

    async def sleep(self, seconds: float) -> None:
        """Return after this many seconds of CLOCK_MONOTONIC."""
        await asyncio.sleep(max(seconds, 0.0))
