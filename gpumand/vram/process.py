"""What /proc says of a process; every answer may be "cannot be told".

Under ``ProtectProc=invisible`` the processes of other users have no visible /proc entry although they live.
"""

from __future__ import annotations

import os
import time

MAX_NAME = 64


def command_name(pid: int) -> str:
    """The kernel's short name of the process (its comm), or ""."""
    try:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return short_name(file.read(256).decode(errors="replace").strip())
    except OSError:
        return ""


def short_name(name: str) -> str:
    """The last part of a path, printable, at most 64 characters."""
    base = name.strip().rstrip("/").rsplit("/", 1)[-1]
    return "".join(char if char.isprintable() else "?" for char in base[:MAX_NAME])


def owner_uid(pid: int) -> int | None:
    """The real uid of the process; None where it cannot be seen.

    Not by who owns /proc/PID: of a process that may not be dumped, that is root.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read(4096).splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(b"Uid:"))
    except (OSError, StopIteration, IndexError, ValueError):
        return None


def start_ticks(pid: int) -> int | None:
    """When it started, in clock ticks since boot: with the pid it names one process for ever. None = not visible."""
    fields = _stat_fields(pid)
    try:
        return int(fields[19])
    except (IndexError, ValueError):
        return None


def is_dead(pid: int) -> bool:
    """Whether no process of that pid holds memory any more; a zombie holds none, one that cannot be asked may."""
    fields = _stat_fields(pid)
    if fields:
        return fields[0] in ("Z", "X", "x")
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False  # it lives, hidden from us
    return False


def started_after(pid: int, realtime_sec: float, slack_sec: float = 2.0) -> bool:
    """Whether the process of that pid surely started after this moment (False when it cannot be told).

    Args:
        pid: process id.
        realtime_sec: CLOCK_REALTIME seconds.
        slack_sec: ticks are 10 ms and the wall clock may be slewed, so only a clear difference counts.
    """
    ticks = start_ticks(pid)
    if ticks is None:
        return False
    boot_sec = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return boot_sec + ticks / os.sysconf("SC_CLK_TCK") > realtime_sec + slack_sec


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on (the command before it may hold anything, blanks and brackets)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read(4096).decode(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
