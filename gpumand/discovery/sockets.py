"""Reads the listening TCP sockets and their owners from /proc. Blocking code."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gpumand.discovery.host import Listener

TABLES = ("tcp", "tcp6")
LISTENING = "0A"
"""TCP_LISTEN, as the kernel writes it in these tables."""

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
    found = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTENING or not fields[9].isdigit():
            continue
        address, _, port = fields[1].partition(":")
        try:
            found[int(fields[9])] = Listener(_ip_address(address), int(port, 16))
        except ValueError:
            continue
        if len(found) >= MAX_LISTENERS:
            break
    return found


def _read_table(path: Path) -> dict[int, Listener]:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return parse_table(file)
    except OSError:  # no IPv6 on this host
        return {}


def _ip_address(digits: str) -> str:
    """Decode an address; the kernel writes it as 32-bit words in the host's byte order."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


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
