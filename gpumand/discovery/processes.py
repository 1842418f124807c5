"""Command lines and cgroups of processes, from /proc; plain blocking code."""

from __future__ import annotations

import re
from pathlib import Path

MAX_COMMAND = 4096

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope)")
"""As systemd has them; a user may give a cgroup of its own any name, escape sequences included."""


def command_line(pid: int, proc: Path = Path("/proc")) -> str:
    """Its words joined by blanks, printable, cut where it is very long; "" where it cannot be seen."""
    try:
        with (proc / str(pid) / "cmdline").open("rb") as file:
            raw = file.read(MAX_COMMAND)
    except OSError:
        return ""
    text = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    return "".join(char if char.isprintable() else "?" for char in text)


def unit_in_cgroup(pid: int, proc: Path = Path("/proc")) -> str:
    """The innermost unit whose cgroup it is in; "" where it cannot be seen, or is in none.

    systemd's answer by pid stops at user@1000.service; this one also has what runs below that.
    """
    try:
        text = (proc / str(pid) / "cgroup").read_text(errors="replace")
    except OSError:
        return ""
    path = next((line.partition("::")[2] for line in text.splitlines() if line.startswith("0::")), "")
    found = [part for part in path.strip().split("/") if _UNIT.fullmatch(part)]
    return found[-1] if found else ""
