"""Reads command lines, parents and cgroups of processes from /proc. Blocking code."""

from __future__ import annotations

import os
import re
from pathlib import Path

MAX_COMMAND = 4096
"""Maximum number of bytes that are read of a command line."""

SERVER_SCRIPTS = frozenset(
    b"main.py server.py tts_server.py launch.py webui.py start.py script.py one_click.py webui.sh start.sh".split()
)
"""Scripts of servers that say nothing about the server. Other scripts in its folder, such as train.py, are not it."""

INTERPRETERS = (b"python", b"pypy", b"uv", b"bash", b"sh")
"""Beginnings of names of programs that run a script; an editor, for example, has it open."""

SCRIPT_ENDINGS = (b".py", b".sh")

MAX_WORDS = 8
"""Words of a command line among which the script is, after the interpreter and its options."""

MAX_ANCESTORS = 64
"""Maximum number of parents of a process that are followed."""

_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope)")
"""Unit names as systemd writes them. Users may name their own cgroups freely, even with terminal escape sequences."""


def command_line(pid: int, proc: Path = Path("/proc")) -> str:
    """The command line of a process, words joined by blanks; "" when it cannot be read.

    Unprintable characters become "?", and a long command line is cut. The script of a server gets the name of its
    folder, if that can be read: "python main.py" names no program, "python ComfyUI/main.py" does.
    """
    try:
        with (proc / str(pid) / "cmdline").open("rb") as file:
            words = file.read(MAX_COMMAND).rstrip(b"\0").split(b"\0")
    except OSError:
        return ""
    text = b" ".join(_with_folder(words, proc / str(pid) / "cwd")).decode(errors="replace").strip()
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_COMMAND]


def _with_folder(words: list[bytes], folder: Path) -> list[bytes]:
    """The words, with the name of the folder before the script of a server that is written without one.

    Folders above are left out: /home/comfyui and ComfyUI/custom_nodes/x have programs of all kinds.
    """
    index = _script(words)
    if index is None:
        return words
    try:
        name = os.path.basename(os.readlink(os.fsencode(folder)))
    except OSError:
        return words
    return [*words[:index], os.path.join(name, words[index].removeprefix(b"./")), *words[index + 1 :]]


def _script(words: list[bytes]) -> int | None:
    """The index of the script that the program runs, if it is one of SERVER_SCRIPTS in the working directory."""
    for index, word in enumerate(words[:MAX_WORDS]):
        if word.removeprefix(b"./") in SERVER_SCRIPTS:
            is_run = index == 0 or os.path.basename(words[0]).startswith(INTERPRETERS)
            return index if is_run else None
        if word in (b"-m", b"-c") or word.endswith(SCRIPT_ENDINGS):
            return None  # what follows are arguments of a module or of another script
    return None


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
