"""Reads command lines, parents and cgroups of processes from /proc. Blocking code."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_COMMAND = 4096
"""Maximum number of bytes that are read of a command line."""

SCRIPTS = (b".py", b".sh")
"""Endings of scripts that interpreters run."""

MAX_WORDS = 8
"""Words of a command line among which the script is, after the interpreter and its options."""

MAX_ANCESTORS = 64
"""Maximum number of parents of a process that are followed."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope)")
"""Unit names as systemd writes them. Users may name their own cgroups freely, even with terminal escape sequences."""


def command_line(pid: int, proc: Path = Path("/proc")) -> str:
    """The command line of a process, words joined by blanks; "" when it cannot be read.

    Unprintable characters become "?", and a long command line is cut. A script gets its folder, as far as that can be
    read: "python main.py" names no program, and the folder does.
    """
    try:
        with (proc / str(pid) / "cmdline").open("rb") as file:
            words = file.read(MAX_COMMAND).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    text = b" ".join(_with_folder(words, proc / str(pid) / "cwd")).decode(errors="replace").strip()
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_COMMAND]


def _with_folder(words: list[bytes], folder: Path) -> list[bytes]:
    """The words, the first of which that is a script by its folder if it is not written with one."""
    script = next((index for index, word in enumerate(words[:MAX_WORDS]) if word.endswith(SCRIPTS)), None)
    if script is None or words[script].startswith((b"/", b"-")):
        return words
    try:
        place = os.path.join(os.readlink(os.fsencode(folder)), words[script].removeprefix(b"./"))
    except OSError:
        return words
    return [*words[:script], place, *words[script + 1 :]]


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
