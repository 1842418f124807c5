"""A client of the local API, for programs on this host that hold leases of the fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from gpumand.fleet.remote_host import RemoteHost

CONNECT_SEC = 5.0


@asynccontextmanager
async def local_fleet(path: str) -> AsyncIterator[RemoteHost]:
    """The fleet behind the socket of this host's agent; its methods are those of one host.

    The URL of errors is ``http://fleet``, and their messages begin with ": ", because they are from no single host.

    Args:
        path: the socket.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path), timeout=timeout) as session:
        yield RemoteHost(session, "", "http://fleet")
