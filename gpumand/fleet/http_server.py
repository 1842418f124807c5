"""Serves HTTP to other hosts and to the local socket: routes, errors as JSON, and limits for every connection.

aiohttp parses requests; its parts for applications are not imported, since they take another megabyte. Each of its
protocol objects is wrapped in one that limits how long a client may take to send a request and how many clients there
are, because a client that holds a lease stays connected for hours.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest
from aiohttp.web_response import Response, StreamResponse
from aiohttp.web_server import Server

from gpumand.domain.errors import GpumandError
from gpumand.fleet.errors import error_body, http_status
from gpumand.http.peer_name import peer_name

log = logging.getLogger(__name__)

Handler = Callable[["Request"], Awaitable[StreamResponse]]
Routes = Mapping[tuple[str, str], Handler]

MAX_CONNECTIONS = 512
MAX_OF_UID = 64
"""Connections of one user of this host, so that no user can close the socket for all others."""

BACKLOG = 256

REQUEST_SEC = 10.0
"""Seconds from connecting, or from the last answer, to the end of the next request's head."""

BODY_SEC = 5.0
HANDSHAKE_SEC = 5.0

LOST_SEC = 3.0
"""A peer that acknowledges no data for this long is lost."""

_TCP_USER_TIMEOUT = 18


class _RequestHandler(RequestHandler):
    """aiohttp's protocol with JSON errors; invalid requests of clients are not logged."""

    def __init__(self, connection: Connection, server: Server) -> None:
        loop = asyncio.get_running_loop()
        # The rest of a body that is not read is not waited for: it may be a stream without an end.
        more: dict[str, Any] = {"keepalive_timeout": REQUEST_SEC, "lingering_time": 0.5}
        super().__init__(server, loop=loop, access_log=cast(Any, None), **more)
        self.connection = connection

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer an invalid request, or one whose handler has failed."""
        if status >= 500:
            log.error("a request failed with an internal error", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has already been started")
        text = "invalid HTTP request" if status == 400 else "internal error; see the log of gpumand-fleet"
        return _json({"error": "org.gpumand1.Error.Failed", "message": text}, status, close=True)


class Connection(asyncio.Protocol):
    """One client connection.

    Args:
        server: counts its connections.

    Attributes:
        lost: set when the connection is lost.
    """

    def __init__(self, server: HttpServer) -> None:
        self.lost = asyncio.Event()
        self._server = server
        self._protocol = _RequestHandler(self, server.server)
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def peer(self) -> str:
        """The client: its uid on a Unix socket, its address over TCP; "" after the connection was lost."""
        return "" if self._transport is None else peer_name(self._transport)

    @property
    def socket(self) -> socket.socket | None:
        """The socket; None after the connection was lost."""
        return None if self._transport is None else self._transport.get_extra_info("socket")

    @property
    def certificate(self) -> Mapping[str, Any]:
        """The client's verified certificate, as ``SSLSocket.getpeercert`` returns it; {} without TLS."""
        found = None if self._transport is None else self._transport.get_extra_info("peercert")
        return found or {}

    def begin_request(self) -> None:
        """A complete head has arrived: its handler sets the limits from now on."""
        self._set_deadline(None)

    def end_request(self) -> None:
        """An answer was sent: the next request must follow soon."""
        self._set_deadline(REQUEST_SEC)

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        limit_silence(self._transport)
        self._set_deadline(REQUEST_SEC)
        self._protocol.connection_made(transport)
        self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        # aiohttp raises exceptions of many types for invalid requests.
        try:
            self._protocol.data_received(data)
        except Exception as error:
            log.debug("invalid HTTP request: %r", error)
            self.abort()

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()  # type: ignore[func-returns-value]  # None, as asyncio allows

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self._server.remove(self)
        self.lost.set()
        self._protocol.connection_lost(exc)
        self._transport = None

    def _set_deadline(self, seconds: float | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        loop = asyncio.get_running_loop()
        self._deadline = None if seconds is None else loop.call_later(seconds, self.abort)


class Request:
    """A request to one of the routes.

    Attributes:
        rest: what arrived of a stream together with its first line.
    """

    def __init__(self, request: BaseRequest, connection: Connection) -> None:
        self.http = request
        self.connection = connection
        self.rest = b""

    @property
    def is_stream(self) -> bool:
        """Whether the body is sent in chunks: its first line is the request, further lines are signs of life."""
        return self.http.headers.get("Transfer-Encoding", "").lower() == "chunked"

    async def text(self, max_bytes: int) -> str:
        """The body, or its first line if it is a stream. Raises InvalidArgs, LimitsExceeded, TimedOut."""
        from gpumand.domain.errors import InvalidArgs, LimitsExceeded, TimedOut

        try:
            async with asyncio.timeout(BODY_SEC):
                data = await self._read(max_bytes)
        except TimeoutError:
            raise TimedOut(f"the body did not arrive within {BODY_SEC:g} s") from None
        if len(data) > max_bytes:
            raise LimitsExceeded(f"the body is larger than {max_bytes} bytes")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InvalidArgs("the body is not UTF-8") from None

    async def _read(self, max_bytes: int) -> bytes:
        content, data = self.http.content, b""
        while len(data) <= max_bytes and (chunk := await content.readany()):
            data += chunk
            if self.is_stream and b"\n" in data:
                data, _, self.rest = data.partition(b"\n")
                break
        return data


class HttpServer:
    """Serves routes on any number of listening sockets. Create it inside a running event loop.

    Args:
        routes: the handler of each method and path.
    """

    def __init__(self, routes: Routes) -> None:
        self.unlimited_uids = frozenset({0})
        self.server = Server(self._handle)
        self._routes = routes
        self._paths = sorted({path for _, path in routes})
        self._connections: dict[Connection, str] = {}
        self._servers: list[asyncio.Server] = []

    async def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections on a listening socket."""
        limit = None if tls is None else HANDSHAKE_SEC
        server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), sock=listener, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=limit
        )
        self._servers.append(server)

    def admit(self, connection: Connection) -> None:
        """Count a new connection; above the limits it is closed."""
        peer = self._connections[connection] = connection.peer
        if len(self._connections) > MAX_CONNECTIONS:
            log.warning("a connection of %s is refused: %d are open", peer, MAX_CONNECTIONS)
            connection.abort()
        elif self._is_limited(peer) and sum(one == peer for one in self._connections.values()) > MAX_OF_UID:
            log.warning("a connection of %s is refused: %d of this user are open", peer, MAX_OF_UID)
            connection.abort()

    def _is_limited(self, peer: str) -> bool:
        """Whether a client is a user of this host that is limited; other hosts have a certificate and no uid."""
        kind, _, number = peer.partition(" ")
        return kind == "uid" and int(number) not in self.unlimited_uids

    def remove(self, connection: Connection) -> None:
        """Forget a connection that was lost."""
        self._connections.pop(connection, None)

    def stop_listening(self) -> None:
        """Accept no further connections."""
        for server in self._servers:
            server.close()

    async def close(self) -> None:
        """Stop listening and end all connections."""
        self.stop_listening()
        await self.server.shutdown(0.5)
        for connection in tuple(self._connections):
            connection.abort()

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        protocol = request.protocol
        assert isinstance(protocol, _RequestHandler)
        connection = protocol.connection
        connection.begin_request()
        try:
            return await self._answer(Request(request, connection))
        finally:
            connection.end_request()

    async def _answer(self, request: Request) -> StreamResponse:
        method, path = request.http.method, request.http.path
        handler = self._routes.get((method, path))
        if handler is None:
            return self._no_route(method, path)
        try:
            return await handler(request)
        except GpumandError as error:
            return error_response(error)

    def _no_route(self, method: str, path: str) -> Response:
        allowed = [one for one, known in self._routes if known == path]
        if allowed:
            words = f"method not allowed: use {' or '.join(allowed)}"
            return _json({"error": "MethodNotAllowed", "message": words}, 405, close=True)
        words = f"not found: use {', '.join(self._paths)}"
        return _json({"error": "NotFound", "message": words}, 404, close=True)


def limit_silence(transport: asyncio.BaseTransport) -> None:
    """Let the kernel end a TCP connection whose peer acknowledges nothing for ``LOST_SEC``."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, int(LOST_SEC * 1000))


def json_response(body: Mapping[str, Any]) -> Response:
    """An answer with a JSON object."""
    return _json(body, 200)


def error_response(error: GpumandError) -> Response:
    """The answer for an error. The connection is closed: a part of the request's body may still be unread."""
    return _json(error_body(error), http_status(error), close=True)


def _json(body: Mapping[str, Any], status: int, *, close: bool = False) -> Response:
    text = json.dumps(body, separators=(",", ":")) + "\n"
    response = Response(text=text, status=status, content_type="application/json")
    response.headers["Server"] = "gpumand-fleet"
    response.headers["Cache-Control"] = "no-store"
    if close:
        response.force_close()
    return response
