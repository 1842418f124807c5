"""Accepts HTTP connections and limits slow, broken or hostile clients.

aiohttp parses and answers requests. Each of its protocol objects is wrapped in a ``Connection`` that limits bytes and
seconds, because aiohttp's own limits start only with a complete request and differ between versions.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar, cast

from aiohttp import web

from gpumand.http.limits import BACKLOG, GRACE_SEC, MAX_CONNECTIONS, MAX_HEAD_BYTES, REQUEST_TIMEOUT_SEC
from gpumand.http.peer_name import peer_name

log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
R = TypeVar("R", bound=web.StreamResponse)

_BAD = b"400 Bad Request"
_TOO_LATE = b"408 Request Timeout"
_TOO_LONG = b"431 Request Header Fields Too Large"


def with_standard_headers(response: R) -> R:
    """Add the headers that every response has, and make the connection close after it."""
    # aiohttp's default Server header would reveal the versions of aiohttp and Python.
    response.headers["Server"] = "gpumand"
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.force_close()
    return response


def text_response(status: int, line: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a text response of one line."""
    return with_standard_headers(web.Response(status=status, text=f"{line}\n", headers=dict(headers or {})))


class _RequestProtocol(web.RequestHandler):
    """aiohttp's protocol with short error responses; invalid requests of clients are not logged."""

    def __init__(self, connection: Connection, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=cast(Any, None), tcp_keepalive=False, lingering_time=GRACE_SEC)
        self.connection = connection

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Respond to an invalid request, or to a request whose handler has failed."""
        if status >= 500:
            log.error("HTTP request failed with an internal error", exc_info=exc)
        if request.writer.output_size > 0:
            # A part of the response has been sent. aiohttp closes the connection when it gets this exception.
            raise ConnectionError("the response has already been started")
        return text_response(status, "invalid HTTP request" if status == 400 else "internal error; see gpumand's log")


class Connection(asyncio.Protocol):
    """One client connection, which serves one request.

    Args:
        acceptor: the acceptor that counts this connection.
        local_names_only: True on a loopback TCP address: the Host header must name this host.

    Attributes:
        request_received: True when a complete request has arrived.
    """

    def __init__(self, acceptor: Acceptor, *, local_names_only: bool) -> None:
        self.local_names_only = local_names_only
        self.request_received = False
        self._acceptor = acceptor
        self._protocol = _RequestProtocol(self, acceptor.server)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._received_bytes = 0
        self._stream_ended: Callable[[], None] | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the connection is an event stream, which has no time limit."""
        return self._stream_ended is not None

    @property
    def peer(self) -> str:
        """The client: its uid on a Unix socket, its address over TCP; "" after the connection was lost."""
        return "" if self._transport is None else peer_name(self._transport)

    def begin_stream(self, ended: Callable[[], None]) -> None:
        """Turn the connection into an event stream: remove its deadline, and call ``ended`` when it is lost."""
        self._stream_ended = ended
        self._set_deadline(None)
        # A request is handled some loop iterations after its arrival. The client may have disconnected in between, and
        # connection_lost, which would have called ``ended``, is already over.
        if self._transport is None:
            ended()

    def abort(self) -> None:
        """Close the connection at once; unsent data is discarded."""
        if self._transport is not None:
            self._transport.abort()

    # -- methods called by asyncio -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._set_deadline(REQUEST_TIMEOUT_SEC)
        self._protocol.connection_made(transport)
        self._acceptor.admit(self)

    def data_received(self, data: bytes) -> None:
        """Pass at most MAX_HEAD_BYTES to aiohttp and discard the rest."""
        # The rest must be read all the same: closing a socket with unread data resets the connection, and the client
        # might not receive the response.
        room = MAX_HEAD_BYTES - self._received_bytes
        self._received_bytes += len(data)
        if room > 0:
            self._parse(data[:room])
        if len(data) > room >= 0:
            self._shorten_deadline()

    def _parse(self, data: bytes) -> None:
        # Older versions of aiohttp raise exceptions of any type for some invalid requests.
        try:
            self._protocol.data_received(data)
        except Exception as error:
            log.debug("invalid HTTP request: %r", error)
            self._respond_and_close(_BAD)

    def eof_received(self) -> bool:
        """Keep a half-closed connection open, because its client may still read the response; end a stream."""
        if self.is_stream:
            return False
        self._shorten_deadline()
        return True  # asyncio then keeps the transport open for writing

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self._acceptor.remove(self)
        if self._stream_ended is not None:
            self._stream_ended()
        self._protocol.connection_lost(exc)
        self._transport = None

    # -- limits --------------------------------------------------------------------------------------------------

    def _shorten_deadline(self) -> None:
        self._set_deadline(GRACE_SEC)

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = (
            None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._deadline_passed)
        )

    def _deadline_passed(self) -> None:
        """Respond with 408 or 431 if no complete request has arrived; otherwise abort the connection."""
        # A client that has not read its response until now would not read another one either.
        if self.request_received or self._transport is None or self._received_bytes == 0:
            self.abort()
            return
        self._respond_and_close(_TOO_LONG if self._received_bytes > MAX_HEAD_BYTES else _TOO_LATE)

    def _respond_and_close(self, status: bytes) -> None:
        """Send a response without aiohttp, which may be in the middle of parsing, and close the connection."""
        if self._transport is not None:
            head = b"HTTP/1.1 %s\r\nServer: gpumand\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            self._transport.write(head % status)
            self._transport.close()


def connection_of(request: web.BaseRequest) -> Connection:
    """Return the connection of a request."""
    protocol = request.protocol
    assert isinstance(protocol, _RequestProtocol)
    return protocol.connection


class Acceptor:
    """Accepts connections and limits their number."""

    def __init__(self, handler: Handler) -> None:
        self.server = web.Server(handler)
        self._connections: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._connections)

    async def open(self, listener: socket.socket) -> asyncio.Server:
        """Accept connections on a listening socket. Closing the server closes the socket but keeps its path."""
        # create_unix_server is not used: since Python 3.13 it removes the path of a socket that it was given, and the
        # path belongs to systemd.
        local = listener.family != socket.AF_UNIX and ipaddress.ip_address(listener.getsockname()[0]).is_loopback
        loop = asyncio.get_running_loop()
        make = partial(Connection, self, local_names_only=local)
        return await loop.create_server(make, sock=listener, backlog=BACKLOG)

    def admit(self, connection: Connection) -> None:
        """Add a connection; above the limit, abort the oldest one that is not a stream."""
        # Idle connections therefore cannot lock out other clients. MAX_READERS is below MAX_CONNECTIONS, so there
        # always is a connection that is not a stream.
        self._connections[connection] = None
        if len(self._connections) > MAX_CONNECTIONS:
            next(one for one in self._connections if not one.is_stream).abort()

    def remove(self, connection: Connection) -> None:
        """Remove a connection that was lost."""
        self._connections.pop(connection, None)

    async def close(self, timeout_sec: float) -> None:
        """Give connections ``timeout_sec`` to finish, then abort the rest."""
        await self.server.shutdown(timeout_sec)
        # A copy, because connections are removed from the dictionary when they are lost.
        for connection in tuple(self._connections):
            connection.abort()
