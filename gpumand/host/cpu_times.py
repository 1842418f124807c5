"""Processor time of processes, from /proc/PID/stat, which every user may read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
MAX_PIDS = 256
"""Maximum number of processes that are read at a time."""


class ProcCpuTimes:
    """Reads how much processor time processes have used: the port CpuTimes.

    Args:
        proc: the /proc folder.
    """

    def __init__(self, proc: Path = PROC) -> None:
        self._proc = proc
        self._tick_sec = 1 / os.sysconf("SC_CLK_TCK")

    async def used_sec(self, pids: Iterable[int]) -> dict[int, float]:
        """Seconds of processor time that processes have used since they began; those that have ended are left out."""
        return await asyncio.to_thread(self._read, tuple(pids)[:MAX_PIDS])

    def _read(self, pids: Iterable[int]) -> dict[int, float]:
        used: dict[int, float] = {}
        for pid in pids:
            with suppress(OSError, ValueError, IndexError):
                stat = (self._proc / str(pid) / "stat").read_text(errors="replace")
                # The name in parentheses may contain spaces and parentheses. utime and stime are fields 14 and 15.
                fields = stat.rpartition(")")[2].split()
                used[pid] = (int(fields[11]) + int(fields[12])) * self._tick_sec
        return used
