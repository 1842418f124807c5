"""Reads command lines, parents and cgroups of processes from /proc. Blocking code."""

from __future__ import annotations

import re
from pathlib import Path

MAX_COMMAND = 4096
"""Maximum number of bytes that are read of a command line."""

MAX_ANCESTORS = 64
"""Maximum number of parents of a process that are followed."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope)")
"""Unit names as systemd writes them. Users may name their own cgroups freely, even with terminal escape sequences."""


def command_line(pid: int, proc: Path = Path("/proc")) -> str:
    """The command line of a process, words joined by blanks; "" when it cannot be read.

    Unprintable characters become "?", and a long command line is cut.
    """
    try:
        with (proc / str(pid) / "cmdline").open("rb") as file:
            raw = file.read(MAX_COMMAND)
    except OSError:
        return ""
    text = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return "".join(char if char.isprintable() else "?" for char in text)


def ancestors(pid: int, proc: Path = Path("/proc")) -> tuple[int, ...]:
    """The parent of a process, the parent of that one, and so on, without process 1; as far as they can be read."""
    found: list[int] = []
    while len(found) < MAX_ANCESTORS and (parent := _parent(pid, proc)) > 1 and parent not in found:
        found.append(parent)
        pid = parent
    return tuple(found)


def _parent(pid: int, proc: Path) -> int:
    """The parent of a process; 0 if it cannot be read."""
    try:
        text = (proc / str(pid) / "stat").read_text(errors="replace")
        # The name of the program comes before, in parentheses, and may contain blanks and parentheses.
        return int(text.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def unit_in_cgroup(pid: int, proc: Path = Path("/proc")) -> str:
    """The innermost unit in the cgroup path of a process; "" when there is none or it cannot be read.

    For processes of users, the system's systemd reports only user@1000.service; the cgroup path names the unit below.
    """
    try:
        text = (proc / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return ""
    path = next((line.partition("::")[2] for line in text.splitlines() if line.startswith("0::")), "")
    found = [part for part in path.strip().split("/") if _UNIT.fullmatch(part)]
    return found[-1] if found else ""
