"""TCP ports that are listened at, from /proc; plain blocking code."""

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
MOST = 4096
"""Ports that are looked at; a host with more of them is no place for guesses."""

_SOCKET = re.compile(r"socket:\[(\d+)\]")


def listeners(proc: Path = Path("/proc")) -> tuple[tuple[Listener, ...], bool]:
    """Who listens where, by port, and whether some processes could not be looked into.

    Args:
        proc: where /proc is.
    """
    found: dict[int, Listener] = {}
    for table in TABLES:
        found |= _table(proc / "self" / "net" / table)
    pids, unseen = _owners(proc, found)
    known = [Listener(one.address, one.port, pids.get(inode, 0)) for inode, one in found.items()]
    hidden = unseen and any(not one.pid for one in known)
    return tuple(sorted(known, key=lambda one: (one.port, one.address))), hidden


def parse(lines: Iterable[str]) -> dict[int, Listener]:
    """The listening sockets of a table as the kernel writes it, by inode; lines that are none are left out."""
    found = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 10 or fields[3] != LISTENING or not fields[9].isdigit():
            continue
        address, _, port = fields[1].partition(":")
        try:
            found[int(fields[9])] = Listener(_address(address), int(port, 16))
        except ValueError:
            continue
        if len(found) >= MOST:
            break
    return found


def _table(path: Path) -> dict[int, Listener]:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return parse(file)
    except OSError:  # no IPv6 on this host
        return {}


def _address(digits: str) -> str:
    """The kernel writes 32-bit words in the host's byte order."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _owners(proc: Path, inodes: Iterable[int]) -> tuple[dict[int, int], bool]:
    """Inode -> pid, of those wanted, and whether there are processes that we may not look into."""
    wanted, owners, unseen = set(inodes), dict[int, int](), False
    for pid in sorted(int(entry) for entry in os.listdir(proc) if entry.isdigit()):
        try:
            inodes_of_pid = _sockets_of(proc / str(pid) / "fd")
        except PermissionError:
            unseen = True
            continue
        for inode in inodes_of_pid & wanted:
            owners.setdefault(inode, pid)
    return owners, unseen


def _sockets_of(folder: Path) -> set[int]:
    """Inodes of the sockets that a process has open; what it closes or ends meanwhile is left out."""
    found = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                if match := _SOCKET.fullmatch(os.readlink(folder / name)):
                    found.add(int(match[1]))
    return found
