"""Accepts connections and limits their number."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from gpumand.gateway import web
from gpumand.gateway.connections import Connection

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

BACKLOG = 512
HEAD_POLL_SEC = 0.02

FLUSH_SEC = 2.0
"""Seconds in which clients may receive the rest of complete answers when the gateway stops."""


class Acceptor:
    """Accepts connections and limits their number.

    Args:
        handler: handles every request.
        max_connections: maximum number of connections.
    """

    def __init__(self, handler: Handler, max_connections: int) -> None:
        self.server = web.Server(handler)
        self.max_connections = max_connections
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    async def open(self, listener: socket.socket, name: str, is_loopback: bool) -> asyncio.Server:
        """Accept connections on a listening socket. Closing the server closes the socket but keeps its path."""
        # create_unix_server is not used: since Python 3.13 it removes the path of a socket that it was given, and the
        # path belongs to systemd.
        make = partial(Connection, self, name, is_loopback)
        return await asyncio.get_running_loop().create_server(make, sock=listener, backlog=BACKLOG)

    def admit(self, connection: Connection) -> None:
        """Add a connection; above the limit, end the oldest one that nothing is lost with, else the new one."""
        self._connections[connection] = None
        if len(self._connections) > self.max_connections:
            next((one for one in self._connections if one.is_expendable), connection).abort()

    def remove(self, connection: Connection) -> None:
        """Remove a connection that was lost."""
        self._connections.pop(connection, None)

    def close_idle(self) -> None:
        """Close the connections on which no request is in flight."""
        for connection in tuple(self._connections):
            connection.close_if_idle()

    async def receive_heads(self, seconds: float) -> None:
        """Wait until all clients that are connected have sent their requests, but not longer than this."""
        # The first wait is for connections that were accepted a moment ago: they are not listed before the next turns
        # of the event loop.
        for _ in range(round(seconds / HEAD_POLL_SEC)):
            await asyncio.sleep(HEAD_POLL_SEC)
            if not any(one.is_receiving for one in self._connections):
                return

    async def close(self) -> None:
        """End all connections, but first let clients receive the answers that are complete."""
        await self._flush()
        for connection in tuple(self._connections):
            connection.abort()
        await self.server.shutdown(1.0)

    async def _flush(self) -> None:
        """Wait until the idle connections have sent what they hold."""
        for _ in range(round(FLUSH_SEC / HEAD_POLL_SEC)):
            if not any(one.holds_answer for one in self._connections):
                return
            await asyncio.sleep(HEAD_POLL_SEC)
