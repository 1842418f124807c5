"""Connections to servers in containers, and why a published port cannot be reached. Reading is blocking code.

``/proc/PID/net`` shows the network of any process without privilege. The host's own table does not have the connections
to a container: its engine forwards them (DNAT), and only those from this host pass through ``docker-proxy``. So the
container's table counts, without the daemon's own connections, which are in the host's table.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from gpumand.domain.socket_url import split_socket_url
from gpumand.host.tcp_table import (
    ESTABLISHED,
    LISTENING,
    TcpConnections,
    TcpSocket,
    count_clients,
    listens_at,
    own_inodes,
    read_sockets,
)
from gpumand.vram.container_places import PlaceReader

PROC = Path("/proc")
MAX_NETWORKS = 16
MAX_ADDRESSES = 4
"""Maximum number of addresses in a message."""

PidsOf = Callable[[str], Sequence[int] | None]
"""Consumer -> processes of its containers; () where they are not known; None for a consumer outside of containers."""


class ConsumerConnections:
    """Counts the clients of consumers, also of those in containers: the port ClientConnections."""

    def __init__(self, pids_of: PidsOf, proc: Path = PROC) -> None:
        """Set where the processes of consumers come from.

        Args:
            pids_of: the processes of a consumer's containers.
            proc: the /proc folder.
        """
        self._pids_of, self._proc = pids_of, proc
        self._on_host = TcpConnections()

    async def clients_of(self, url: str, consumer: str = "") -> int | None:
        """Number of established connections to a consumer's server, without own ones; None where unknown."""
        pids = self._pids_of(consumer) if consumer else None
        if pids is None:
            return await self._on_host.clients_of(url)
        try:
            return await asyncio.to_thread(self._count, url, pids) if pids else None
        except OSError:
            return None

    async def why_unreachable(self, url: str, consumer: str = "") -> str:
        """Why a connection to the URL was neither accepted nor refused, as far as the host shows it; "" if unknown."""
        pids = self._pids_of(consumer) if consumer else None
        try:
            return await asyncio.to_thread(self._explain, url, pids or ())
        except OSError:
            return ""

    def _explain(self, url: str, pids: Sequence[int]) -> str:
        reader = PlaceReader(self._proc)
        addresses = sorted(frozenset().union(*(reader.addresses(pid) for pid in pids[:MAX_NETWORKS])))
        return why_unreachable(url, read_sockets(self._proc), addresses)

    def _count(self, url: str, pids: Sequence[int]) -> int | None:
        # Own connections are opened and closed while the tables are read. Those that are there before and after it
        # are in the container's table too.
        before, host = self._own_ports(url), _listeners(read_sockets(self._proc))
        networks = _distinct(read_sockets(self._proc, pid) for pid in pids[:MAX_NETWORKS])
        own = len(before & self._own_ports(url))
        for sockets in networks:
            if _listeners(sockets) == host:  # a container with the network of the host
                return count_clients(sockets, url, own_inodes(self._proc))
        counts = [count_in_network(sockets, _port(url)) for sockets in networks]
        known = [count for count in counts if count is not None]
        return max(0, sum(known) - own) if known else None

    def _own_ports(self, url: str) -> frozenset[int]:
        """Local ports of own connections to the port of the URL."""
        inodes, port = own_inodes(self._proc), _port(url)
        rows = (one for one in read_sockets(self._proc) if one.inode in inodes and one.state == ESTABLISHED)
        return frozenset(one.local[1] for one in rows if one.remote[1] == port)


def count_in_network(sockets: Sequence[TcpSocket], port: int) -> int | None:
    """Number of connections from outside of a container's network; None where nothing listens there.

    Args:
        sockets: the table of the container.
        port: the published port: if the container listens at a port of the same number, only that one counts.
    """
    listening = {one.local[1] for one in sockets if one.state == LISTENING and not _is_loopback(one.local[0])}
    if not listening:
        return None
    wanted = {port} & listening or listening
    return sum(
        one.state == ESTABLISHED and one.local[1] in wanted and not _is_loopback(one.remote[0]) for one in sockets
    )


def why_unreachable(url: str, sockets: Sequence[TcpSocket], addresses: Sequence[str] = ()) -> str:
    """Why a connection was neither accepted nor refused, by the socket table of the host; "" if unknown.

    A port of this host at which nothing listens refuses at once. If it does not, packets to it are redirected to
    another address, as Podman and Docker without its userland proxy do for published ports, and dropped there.

    Args:
        url: the server's URL.
        sockets: the host's table.
        addresses: addresses of the consumer's containers, as far as they are known.
    """
    host = _host(url)
    if not host or listens_at(sockets, url):
        return ""
    if host == "localhost" or _is_loopback(host):
        own = [one for one in addresses if not one.startswith("fe80:")]
        where = f"to its address {', '.join(own[:MAX_ADDRESSES])}" if own else "to its own address"
        return (
            f"nothing on this host listens at port {_port(url)}, so it is probably a container's port that is "
            f"published by DNAT only, {where}, which IPAddressAllow= of gpumand.service lacks. gpumanctl doctor prints "
            "the drop-in"
        )
    if _is_private(host) and not any(one.local[0] == host for one in sockets):
        return f"IPAddressAllow= of gpumand.service may lack {host}. gpumanctl doctor prints the drop-in"
    return ""


def inner_ports(pid: int, proc: Path = PROC) -> tuple[int, ...]:
    """Ports at which a process's network accepts connections from outside. Raises OSError."""
    rows = (one for one in read_sockets(proc, pid) if one.state == LISTENING and not _is_loopback(one.local[0]))
    return tuple(sorted({one.local[1] for one in rows}))


def _distinct(tables: Iterable[list[TcpSocket]]) -> list[list[TcpSocket]]:
    """The tables of several processes, each network once."""
    by_listeners = {_listeners(table): table for table in tables if table}
    return list(by_listeners.values())


def _listeners(sockets: Sequence[TcpSocket]) -> frozenset[int]:
    return frozenset(one.inode for one in sockets if one.state == LISTENING)


def _host(url: str) -> str:
    if not url or split_socket_url(url) is not None:
        return ""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _port(url: str) -> int:
    try:
        parts = urlsplit(url)
        return parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return 0


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return False
