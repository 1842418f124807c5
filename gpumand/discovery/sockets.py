"""Reads the listening TCP sockets and their owners from /proc. Blocking code."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gpumand.discovery.host import Listener
from gpumand.host import tcp_table
from gpumand.host.tcp_table import LISTENING, TABLES

MAX_LISTENERS = 4096
"""Maximum number of sockets per table; a host with more of them is no place for guesses."""

_SOCKET = re.compile(r"socket:\[(\d+)\]")


def listeners(proc: Path = Path("/proc")) -> tuple[tuple[Listener, ...], bool]:
    """The listening sockets, ordered by port, and whether the owner of any of them could not be identified.

    Args:
        proc: the /proc folder.
    """
    found: dict[int, Listener] = {}
    for table in TABLES:
        found |= _read_table(proc / "self" / "net" / table)
    pids, has_hidden = _owners(proc, found)
    known = [Listener(one.address, one.port, pids.get(inode, 0)) for inode, one in found.items()]
    is_incomplete = has_hidden and any(not one.pid for one in known)
    return tuple(sorted(known, key=lambda one: (one.port, one.address))), is_incomplete


def parse_table(lines: Iterable[str]) -> dict[int, Listener]:
    """Parse /proc/net/tcp or tcp6: its listening sockets by inode; lines of other shape or state are skipped."""
    found: dict[int, Listener] = {}
    for one in tcp_table.parse_table(lines):
        if one.state == LISTENING:
            found[one.inode] = Listener(*one.local)
        if len(found) >= MAX_LISTENERS:
            break
    return found


def _read_table(path: Path) -> dict[int, Listener]:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return parse_table(file)
    except OSError:  # no IPv6 on this host
        return {}


def _owners(proc: Path, inodes: Iterable[int]) -> tuple[dict[int, int], bool]:
    """Inode -> pid of the owner, and whether there are processes that the caller may not inspect."""
    wanted, owners, has_hidden = set(inodes), dict[int, int](), False
    for pid in sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit()):
        try:
            inodes_of_pid = _sockets_of(proc / str(pid) / "fd")
        except PermissionError:
            has_hidden = True
            continue
        for inode in inodes_of_pid & wanted:
            owners.setdefault(inode, pid)  # a socket inherited by children belongs to the lowest pid
    return owners, has_hidden


def _sockets_of(folder: Path) -> set[int]:
    """Inodes of the open sockets of a process; sockets that it closes during the scan are skipped."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                if match := _SOCKET.fullmatch(os.readlink(folder / name)):
                    found.add(int(match[1]))
    return found
