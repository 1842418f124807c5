"""A client of the local API, for programs on this host that hold leases of the fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from gpumand.fleet.errors import HostLost
from gpumand.fleet.remote_host import RemoteHost

CONNECT_SEC = 5.0
URL = "http://fleet"
"""The URL in errors about the agent of this host itself."""


def is_absent(error: HostLost) -> bool:
    """Whether the agent of this host gives no answer; otherwise it reports the loss of another host."""
    return URL in error.message


@asynccontextmanager
async def local_fleet(path: str) -> AsyncIterator[RemoteHost]:
    """The fleet behind the socket of this host's agent; its methods are those of one host.

    Messages of errors begin with ": ", because they are from no single host.

    Args:
        path: the socket.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SEC)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(path), timeout=timeout) as session:
        yield RemoteHost(session, "", URL)
