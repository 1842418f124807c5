"""Serves the HTTP endpoints: /v1/status, /v1/events, /metrics and /healthz."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable

from aiohttp import HttpVersion10, HttpVersion11, web

from gpumand.bus.marshalling import status_entry
from gpumand.bus.variants import unwrap
from gpumand.bus.wire_text import text
from gpumand.domain.status import Status
from gpumand.http.connections import Acceptor, connection_of, text_response, with_standard_headers
from gpumand.http.event_streams import HELLO, EventStreams, Reader, TooManyReaders
from gpumand.http.limits import MAX_BODY_BYTES, WRITE_SEC
from gpumand.http.metrics import Metrics
from gpumand.http.prometheus_format import CONTENT_TYPE

log = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_SEC = 0.5
METHODS = ("GET", "HEAD")
EVENTS = "/v1/events"
CURRENT_PAGES = frozenset({"/v1/status", "/metrics"})

Refresh = Callable[[], Awaitable[None] | None]


class HttpEndpoints:
    """Serves the endpoints on any number of listening sockets.

    Args:
        status: returns a consistent snapshot of the daemon's state.
        refresh: returns a reading to await before the status, where none was taken for a while; None = not needed.
        metrics: collects durations from events.
        streams: the connected readers of events.
    """

    def __init__(self, status: Callable[[], Status], refresh: Refresh, metrics: Metrics, streams: EventStreams) -> None:
        self._status, self._refresh = status, refresh
        self._metrics = metrics
        self._streams = streams
        self._acceptor = Acceptor(self._handle)
        self._servers: list[asyncio.Server] = []
        self._routes: dict[str, Callable[[], web.Response]] = {
            "/v1/status": self._status_page,
            "/metrics": self._metrics_page,
            "/healthz": self._health_page,
            EVENTS: _events_head,
        }

    async def open(self, listener: socket.socket) -> asyncio.Server:
        """Serve a listening socket; see ``Acceptor.open``."""
        server = await self._acceptor.open(listener)
        self._servers.append(server)
        return server

    async def close(self) -> None:
        """Stop listening and end all connections; streams end after their queued events have been sent."""
        # Listening stops first, so that no new connection is accepted while the others end.
        for server in self._servers:
            server.close()
        self._streams.close()
        await self._acceptor.close(SHUTDOWN_TIMEOUT_SEC)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection_of(request).request_received = True
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path == EVENTS and request.method == "GET":
            return await self._stream_events(request)
        if request.path in CURRENT_PAGES and (reading := self._refresh()) is not None:
            await reading
        return self._routes[request.path]()

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        if request.version not in (HttpVersion10, HttpVersion11):
            return text_response(400, "unsupported HTTP version: use HTTP/1.0 or HTTP/1.1")
        if connection_of(request).local_names_only and not _is_local_name(request.headers.get("Host", "")):
            return text_response(421, "invalid Host header: use localhost or the IP address")
        if request.path not in self._routes:
            return text_response(404, "not found: use /v1/status, /v1/events, /metrics or /healthz")
        if request.method not in METHODS:
            return text_response(405, "method not allowed: use GET or HEAD", {"Allow": ", ".join(METHODS)})
        if request.can_read_body and not 0 <= _body_bytes(request) <= MAX_BODY_BYTES:
            return text_response(413, "request body too large: send no body")
        return None

    def _status_page(self) -> web.Response:
        document = json.dumps(unwrap(status_entry(self._status())))
        return with_standard_headers(web.Response(text=document + "\n", content_type="application/json"))

    def _metrics_page(self) -> web.Response:
        page = self._metrics.text(self._status()).encode("utf-8")
        return with_standard_headers(web.Response(body=page, headers={"Content-Type": CONTENT_TYPE}))

    def _health_page(self) -> web.Response:
        """Respond with 200 whenever the daemon serves requests."""
        # A degraded daemon is healthy too: the cause is the driver, and a restart by a supervisor would not help.
        degraded = " ".join(text(self._status().degraded).split())
        return text_response(200, f"ok; degraded: {degraded}" if degraded else "ok")

    async def _stream_events(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        try:
            reader = self._streams.join(connection.peer, connection.abort)
        except TooManyReaders as error:
            return text_response(503, str(error), {"Retry-After": "30"})
        # Registered before the first write: if the client disconnects now, the reader is closed and the loop ends.
        connection.begin_stream(reader.close)
        response = with_standard_headers(web.StreamResponse(headers={"Content-Type": "text/event-stream"}))
        try:
            await response.prepare(request)
            await _write_events(response, reader)
        except (ConnectionError, TimeoutError) as error:
            log.debug("reader of the event stream disconnected: %r", error)
            connection.abort()
        finally:
            self._streams.leave(reader)
        return response


async def _write_events(response: web.StreamResponse, reader: Reader) -> None:
    """Write events until the reader is closed. Raises TimeoutError if the client does not read, ConnectionError."""
    data = HELLO
    while data:
        async with asyncio.timeout(WRITE_SEC):
            await response.write(data)
        data = await reader.next()


def _events_head() -> web.Response:
    """Return the response to HEAD for the event stream."""
    return with_standard_headers(web.Response(headers={"Content-Type": "text/event-stream"}))


def _body_bytes(request: web.BaseRequest) -> int:
    """Return the announced size of the body; -1 if none was announced (a chunked body)."""
    return -1 if request.content_length is None else request.content_length


def _is_local_name(host: str) -> bool:
    """Return whether a Host header is empty, localhost or an IP address."""
    # This check prevents DNS rebinding: a web page whose host name resolves to 127.0.0.1 could otherwise read the
    # responses in the user's browser.
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
