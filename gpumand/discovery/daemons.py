"""Finds other gpumand daemons on this host. Each knows only its own grants, so that two of them overcommit VRAM."""

from __future__ import annotations

import pwd
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MAX_BYTES = 4096

PROGRAM = "gpumand"
ADDRESS_FLAG = "--bus-address"
_PYTHON = re.compile(r"python[0-9.]*")
_FLAGS = re.compile(r"-[BEIOPbsSu]+")
_UID_LINE = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
_IN_CONTAINER = re.compile(rb"^NSpid:\s+\d+\s+\d+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OtherDaemon:
    """Another gpumand daemon.

    Attributes:
        pid: its process id.
        user: name or uid of the user that runs it; "" for the system's daemon.
    """

    pid: int
    user: str = ""

    def __str__(self) -> str:
        """Describe it, for messages."""
        which = f"the daemon of user {self.user}" if self.user else "the system daemon"
        return f"{which}, pid {self.pid}"


def other_daemons(own_pid: int, proc: Path = PROC) -> tuple[OtherDaemon, ...]:
    """Daemons of the system and of users, as far as the caller may see them. Blocking code.

    A daemon with ``--bus-address`` is a test instance, and one in a container has its own GPUs; both are left out.

    Args:
        own_pid: process to leave out.
        proc: the /proc folder.
    """
    pids = (int(folder.name) for folder in proc.iterdir() if folder.name.isdigit())
    found = (_read_daemon(pid, proc) for pid in sorted(pids) if pid != own_pid)
    return tuple(one for one in found if one is not None)


def _read_daemon(pid: int, proc: Path) -> OtherDaemon | None:
    with suppress(OSError):  # the process may end at any point, and may belong to another user
        arguments = _daemon_arguments(_read(proc / str(pid) / "cmdline").decode(errors="replace").split("\0"))
        if arguments is None or any(word.startswith(ADDRESS_FLAG) for word in arguments):
            return None
        status = _read(proc / str(pid) / "status")
        uid = _UID_LINE.search(status)
        if uid is None or _IN_CONTAINER.search(status):
            return None
        return OtherDaemon(pid, _user_name(int(uid[1])) if "--user" in arguments else "")
    return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _daemon_arguments(words: Sequence[str]) -> list[str] | None:
    """The arguments of a gpumand process, without interpreter and program; None for any other program."""
    # A script shows up as "python3 [flags] /path/gpumand ...", or as "python3 -m gpumand ...".
    rest = list(words)
    if rest and _PYTHON.fullmatch(Path(rest[0]).name):
        rest = rest[1:]
        while rest and _FLAGS.fullmatch(rest[0]):
            rest = rest[1:]
        if rest[:2] == ["-m", PROGRAM]:
            return rest[2:]
    return rest[1:] if rest and Path(rest[0]).name == PROGRAM else None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
