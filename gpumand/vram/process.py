"""Reads facts about a process from /proc; each of them may be unknown.

Under ``ProtectProc=invisible``, /proc does not show the processes of other users although they are alive.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Identifies a process beyond its lifetime, because the kernel reuses pids.

    Attributes:
        pid: process id.
        started: start time in clock ticks since boot; None if /proc does not show the process.
    """

    pid: int
    started: int | None


def command_name(pid: int) -> str:
    """Return the kernel's short name of a process (its comm), or "" if unknown."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return short_name(file.read(256).decode(errors="replace").strip())
    except OSError:
        return ""


def short_name(name: str) -> str:
    """Return the last part of a path, made printable and limited to 64 characters."""
    base = name.strip().rstrip("/").rsplit("/", 1)[-1]
    return "".join(char if char.isprintable() else "?" for char in base[:MAX_NAME])


def owner_uid(pid: int) -> int | None:
    """Return the real uid of a process; None if /proc does not show the process."""
    # The owner of /proc/PID is not used: for a process that is not dumpable it is root.
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read(4096).splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(b"Uid:"))
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot; None if /proc does not show the process.

    Pid and start time together identify a process uniquely.
    """
    fields = stat_fields(pid)
    try:
        return int(fields[19])
    except (IndexError, ValueError):
        return None


def is_dead(pid: int) -> bool:
    """Return whether the process surely holds no memory any more: it does not exist, or is a zombie."""
    fields = stat_fields(pid)
    if fields:
        return fields[0] in ("Z", "X", "x")
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False  # the process is alive, but /proc hides it
    return False


def started_after(pid: int, realtime_sec: float, slack_sec: float = 2.0) -> bool:
    """Return whether a process surely started after a moment; False if that is unknown.

    Args:
        pid: process id.
        realtime_sec: the moment in CLOCK_REALTIME seconds.
        slack_sec: minimum difference in seconds that counts; a tick is 10 ms, and the wall clock may be slewed.
    """
    ticks = start_ticks(pid)
    if ticks is None:
        return False
    boot_sec = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_sec + ticks / os.sysconf("SC_CLK_TCK") > realtime_sec + slack_sec


def stat_fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; [] if /proc does not show the process."""
    # The command name precedes the state in brackets and may itself contain blanks and brackets.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096).decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
