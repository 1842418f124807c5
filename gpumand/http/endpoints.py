"""The routes of the HTTP face."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Callable

from aiohttp import HttpVersion10, HttpVersion11, web

from gpumand.bus.marshalling import status_entry, text
from gpumand.bus.variants import unwrap
from gpumand.domain.status import Status
from gpumand.http.connections import Door, connection_of, dressed, plain
from gpumand.http.event_streams import HELLO, Reader, Streams, TooManyReaders
from gpumand.http.limits import MAX_BODY_BYTES, WRITE_SEC
from gpumand.http.metrics import Metrics
from gpumand.http.prometheus_format import CONTENT_TYPE

log = logging.getLogger(__name__)

PATIENCE_SEC = 0.5
METHODS = ("GET", "HEAD")
EVENTS = "/v1/events"


class HttpEndpoints:
    """Answers on any number of listening sockets.

    Args:
        status: one consistent snapshot of everything.
        metrics: told of every event.
        streams: the readers of events.
    """

    def __init__(self, status: Callable[[], Status], metrics: Metrics, streams: Streams) -> None:
        self._status = status
        self._metrics = metrics
        self._streams = streams
        self._door = Door(self._answer)
        self._servers: list[asyncio.Server] = []
        self._routes: dict[str, Callable[[], web.Response]] = {
            "/v1/status": self._status_page,
            "/metrics": self._metrics_page,
            "/healthz": self._health_page,
            EVENTS: _events_head,
        }

    async def open(self, listener: socket.socket) -> asyncio.Server:
        """Answer on a listening socket; see ``Door.open``."""
        server = await self._door.open(listener)
        self._servers.append(server)
        return server

    async def close(self) -> None:
        """Accept nothing more and end what is open; streams end by themselves."""
        for server in self._servers:
            server.close()
        self._streams.close()
        await self._door.close(PATIENCE_SEC)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection_of(request).asked = True
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path == EVENTS and request.method == "GET":
            return await self._follow(request)
        return self._routes[request.path]()

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        if request.version not in (HttpVersion10, HttpVersion11):
            return plain(400, "HTTP/1.0 and 1.1 are spoken here")
        if connection_of(request).local_names_only and not _names_this_host(request.headers.get("Host", "")):
            return plain(421, "this address is asked as localhost or by its number only")
        if request.path not in self._routes:
            return plain(404, "there are /v1/status, /v1/events, /metrics and /healthz")
        if request.method not in METHODS:
            return plain(405, "this is for reading only", {"Allow": ", ".join(METHODS)})
        if request.can_read_body and not 0 <= _body_bytes(request) <= MAX_BODY_BYTES:
            return plain(413, "no body is taken here")
        return None

    def _status_page(self) -> web.Response:
        told = json.dumps(unwrap(status_entry(self._status())))
        return dressed(web.Response(text=told + "\n", content_type="application/json"))

    def _metrics_page(self) -> web.Response:
        page = self._metrics.text(self._status()).encode("utf-8")
        return dressed(web.Response(body=page, headers={"Content-Type": CONTENT_TYPE}))

    def _health_page(self) -> web.Response:
        """It serves, so it is healthy; that it is degraded is the driver's fault, and a restart would not help."""
        degraded = " ".join(text(self._status().degraded).split())
        return plain(200, f"ok; degraded: {degraded}" if degraded else "ok")

    async def _follow(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        try:
            reader = self._streams.join(connection.peer, connection.cut)
        except TooManyReaders as error:
            return plain(503, str(error), {"Retry-After": "30"})
        connection.begin_stream(reader.close)
        response = dressed(web.StreamResponse(headers={"Content-Type": "text/event-stream"}))
        try:
            await response.prepare(request)
            await _tell(response, reader)
        except (ConnectionError, TimeoutError) as error:
            log.debug("a reader of events is gone: %r", error)
            connection.cut()
        finally:
            self._streams.leave(reader)
        return response


async def _tell(response: web.StreamResponse, reader: Reader) -> None:
    """Write what is told until there is no more. Raises TimeoutError (it does not read), ConnectionError."""
    told = HELLO
    while told:
        async with asyncio.timeout(WRITE_SEC):
            await response.write(told)
        told = await reader.next()


def _events_head() -> web.Response:
    """What HEAD says of the stream."""
    return dressed(web.Response(headers={"Content-Type": "text/event-stream"}))


def _body_bytes(request: web.BaseRequest) -> int:
    """The size that was announced; -1 where there is none."""
    return -1 if request.content_length is None else request.content_length


def _names_this_host(host: str) -> bool:
    """Whether it is asked for by number or as localhost.

    A page in a browser may have a name of its own point here, and would then read what we answer; it cannot do so
    under our number.
    """
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
