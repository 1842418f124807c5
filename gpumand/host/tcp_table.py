"""The kernel's table of TCP sockets: the connections to a port of this host. Reading it is blocking code.

The table shows the network namespace of the process that reads it. A server in a container with a network of its own
is not in it, so that its connections are unknown, not zero.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

TABLES = ("tcp", "tcp6")
ESTABLISHED, LISTENING = "01", "0A"
"""TCP_ESTABLISHED and TCP_LISTEN, as the kernel writes them in these tables."""

MAX_ROWS = 65536
"""Maximum number of sockets that are read per table."""

_SOCKET = re.compile(r"socket:\[(\d+)\]")

Endpoint = tuple[str, int]
"""Address and port."""


@dataclass(frozen=True, slots=True)
class TcpSocket:
    """One row of the table; ``state`` is the kernel's two hex digits."""

    local: Endpoint
    remote: Endpoint
    state: str
    inode: int


def parse_table(lines: Iterable[str]) -> Iterator[TcpSocket]:
    """Parse /proc/net/tcp or tcp6; lines of another shape are skipped."""
    for line in lines:
        fields = line.split()
        if len(fields) >= 10 and fields[9].isdigit():
            with suppress(ValueError):
                yield TcpSocket(_endpoint(fields[1]), _endpoint(fields[2]), fields[3], int(fields[9]))


def read_sockets(proc: Path = Path("/proc"), pid: int | None = None) -> list[TcpSocket]:
    """All TCP sockets of the network namespace of a process, at most ``MAX_ROWS`` per table. Raises OSError.

    Args:
        proc: the /proc folder.
        pid: the process; None = the calling one.
    """
    found: list[TcpSocket] = []
    for table in TABLES:
        with (
            suppress(FileNotFoundError),
            (proc / ("self" if pid is None else str(pid)) / "net" / table).open("r", 1, "ascii", "replace") as file,
        ):
            found += islice(parse_table(file), MAX_ROWS)
    return found


def own_inodes(proc: Path = Path("/proc")) -> frozenset[int]:
    """Inodes of the sockets of the calling process. Raises OSError."""
    folder, found = proc / "self" / "fd", set[int]()
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            if match := _SOCKET.fullmatch(os.readlink(folder / name)):
                found.add(int(match[1]))
    return frozenset(found)


def count_clients(sockets: Sequence[TcpSocket], url: str, own: frozenset[int]) -> int | None:
    """Number of established connections of clients to the server of a URL; None where the table cannot tell.

    Args:
        sockets: the table.
        url: the server's URL; only its host and port matter.
        own: inodes of the caller's own sockets, whose connections are no clients.
    """
    server = _local_server(sockets, url)
    if server is None:
        return None
    mine = {one.local for one in sockets if one.inode in own}
    return sum(one.state == ESTABLISHED and one.local[1] == server and one.remote not in mine for one in sockets)


class TcpConnections:
    """Counts the clients of local servers, without blocking the event loop."""

    async def clients_of(self, url: str, consumer: str = "") -> int | None:
        """Number of established connections to the server of a URL, without this process's own; None where unknown.

        Args:
            url: the server's URL.
            consumer: has no effect: every server counts as one of this network namespace.
        """
        try:
            return await asyncio.to_thread(_read_and_count, url)
        except OSError:
            return None


def _read_and_count(url: str) -> int | None:
    # Own sockets are opened and closed while the table is read, so they are looked up before and after that.
    before, sockets = own_inodes(), read_sockets()
    return count_clients(sockets, url, before | own_inodes())


def listens_at(sockets: Sequence[TcpSocket], url: str) -> bool:
    """Whether a socket of the table listens at the address of a URL."""
    return _local_server(sockets, url) is not None


def _local_server(sockets: Sequence[TcpSocket], url: str) -> int | None:
    """The port of a URL, where a socket of this namespace listens on it for the URL's host."""
    return next((one.local[1] for one in listening_at(sockets, url)), None)


def listening_at(sockets: Sequence[TcpSocket], url: str) -> Iterator[TcpSocket]:
    """The sockets that listen at the address of a URL; none where it is one of another host."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return
    wanted = None if host == "localhost" else _address(host)
    if host != "localhost" and wanted is None:
        return  # a name of another host, as far as this table can tell
    for one in sockets:
        if one.state == LISTENING and one.local[1] == port and _is_reached(one.local[0], wanted, sockets):
            yield one


def _is_reached(listening: str, wanted: str | None, sockets: Sequence[TcpSocket]) -> bool:
    """Whether a listener has the wanted address (None = localhost), or all addresses of this host."""
    address = ipaddress.ip_address(listening)
    is_local = wanted is None or ipaddress.ip_address(wanted).is_loopback or ipaddress.ip_address(wanted).is_unspecified
    if address.is_unspecified:
        return is_local or any(one.local[0] == wanted for one in sockets)
    return address.is_loopback if wanted is None else listening == wanted or (is_local and address.is_loopback)


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None


def _endpoint(text: str) -> Endpoint:
    digits, _, port = text.partition(":")
    return ip_address(digits), int(port, 16)


def ip_address(digits: str) -> str:
    """Decode an address; the kernel writes it as 32-bit words in the host's byte order. Raises ValueError."""
    words = (int(digits[at : at + 8], 16) for at in range(0, len(digits), 8))
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
