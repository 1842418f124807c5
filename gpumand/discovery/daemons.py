"""Other gpumand daemons on this host. Each reckons with what it has lent itself, and knows nothing of the others'."""

from __future__ import annotations

import pwd
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MAX_BYTES = 4096

NAME = "gpumand"
ADDRESS_FLAG = "--bus-address"
_PYTHON = re.compile(r"python[0-9.]*")
_FLAGS = re.compile(r"-[BEIOPbsSu]+")
_FIRST_NUMBER = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
_IN_A_CONTAINER = re.compile(rb"^NSpid:\s+\d+\s+\d+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class OtherDaemon:
    """One of them.

    Attributes:
        pid: its process.
        user: whose it is, by name or number; "" for the system's.
    """

    pid: int
    user: str = ""

    def __str__(self) -> str:
        """In words."""
        whose = f"that of the user {self.user}" if self.user else "the system's"
        return f"{whose}, pid {self.pid}"


def other_daemons(own_pid: int, proc: Path = PROC) -> tuple[OtherDaemon, ...]:
    """Those of the system and of users, as far as they can be seen from here; plain blocking code.

    One that serves a bus at an address of its own is somebody's trial, and one in a container has a host of its own.
    """
    pids = (int(folder.name) for folder in proc.iterdir() if folder.name.isdigit())
    found = (_other(pid, proc) for pid in sorted(pids) if pid != own_pid)
    return tuple(one for one in found if one is not None)


def _other(pid: int, proc: Path) -> OtherDaemon | None:
    with suppress(OSError):
        arguments = _arguments(_read(proc / str(pid) / "cmdline").decode(errors="replace").split("\0"))
        if arguments is None or any(word.startswith(ADDRESS_FLAG) for word in arguments):
            return None
        status = _read(proc / str(pid) / "status")
        uid = _FIRST_NUMBER.search(status)
        if uid is None or _IN_A_CONTAINER.search(status):
            return None
        return OtherDaemon(pid, _name(int(uid[1])) if "--user" in arguments else "")
    return None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _arguments(words: Sequence[str]) -> list[str] | None:
    """What the daemon was told on its command line; None where it is something else that runs."""
    rest = list(words)
    if rest and _PYTHON.fullmatch(Path(rest[0]).name):
        rest = rest[1:]
        while rest and _FLAGS.fullmatch(rest[0]):
            rest = rest[1:]
        if rest[:2] == ["-m", NAME]:
            return rest[2:]
    return rest[1:] if rest and Path(rest[0]).name == NAME else None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
