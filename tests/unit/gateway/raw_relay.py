"""A server and a front in the process of a test: both sides of the gateway as raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from gpumand.gateway import forward
from gpumand.gateway.acceptor import Acceptor
from gpumand.gateway.config import ListenerSettings
from gpumand.gateway.connections import connection_of
from gpumand.gateway.dialects import Api, Dialect
from gpumand.gateway.exchange import Exchange, refusal_response
from gpumand.gateway.headers import Origin
from gpumand.gateway.paths import check_target
from gpumand.gateway.refusals import Refused
from gpumand.gateway.requests import Client, RequestTable
from gpumand.gateway.router import Service
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.upstream import Endpoint, UpstreamDown, Upstreams, endpoint_of

DEADLINE_SEC = 30.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Answers = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server that reads heads and writes raw answers, and that never reads a body by itself.

    Attributes:
        heads: the heads of all requests, by connection.
    """

    heads: list[list[bytes]]
    endpoint: Endpoint


@contextlib.asynccontextmanager
async def server(answer: Answers, path: Path | None = None) -> AsyncIterator[Server]:
    heads: list[list[bytes]] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own: list[bytes] = []
        heads.append(own)
        tasks.add(cast(Any, asyncio.current_task()))
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                own.append(head)
                await answer(head, writer)

    if path is None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    else:
        listening = await asyncio.start_unix_server(serve, path)
        url = f"http://unix:{path}:"
    try:
        yield Server(heads, endpoint_of("fake", url))
    finally:
        listening.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def exchange_of(request: web.BaseRequest, dialect: Dialect | None = None) -> Exchange:
    client = Client("127.0.0.1")
    entry = RequestTable(cast(Any, None)).add(client, "fake", request.method, "/", RouteClass.WORK)
    target = check_target(request.method, request.raw_path)
    service = Service("fake", ListenerSettings(name="fake"))
    origin = Origin("127.0.0.1", "localhost")
    return Exchange(request, connection_of(request), target, origin, service, entry, dialect or Dialect())


Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def passing(upstreams: Upstreams, endpoint: Endpoint, body: bytes | None = None) -> Handle:
    """Handles a request as the gateway does under a lease."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request)
        try:
            answer = await forward.begin(exchange, upstreams, endpoint, body)
        except Refused as error:
            return refusal_response(error.refusal, Api.PLAIN)
        except UpstreamDown:
            return web.Response(status=599)
        try:
            return await forward.relay(exchange, answer, endpoint)
        finally:
            forward.finish(answer)

    return handle


@contextlib.asynccontextmanager
async def accepting(acceptor: Acceptor, *, small: bool = False) -> AsyncIterator[int]:
    """Accepts connections, with a ``small`` buffer in the kernel; yields the port."""
    listener = socket.socket()
    if small:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    opened = await acceptor.open(listener, "fake", True)
    try:
        async with asyncio.timeout(DEADLINE_SEC):
            yield listener.getsockname()[1]
    finally:
        opened.close()
        await acceptor.close()


@contextlib.asynccontextmanager
async def front(handle: Handle, *, small: bool = False) -> AsyncIterator[tuple[Acceptor, int]]:
    """Accepts connections for a handler; yields the port too."""

    async def around(request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        connection.begin_request(request)
        try:
            response = await handle(request)
            if not request.content.is_eof():
                response.force_close()
            return response
        finally:
            connection.end_request(is_read=request.content.is_eof())

    acceptor = Acceptor(around, 100)
    async with accepting(acceptor, small=small) as port:
        yield acceptor, port


async def answer_ok(head: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def ask(port: int, sent: bytes, until: bytes = b"") -> bytes:
    """Send bytes and read until other bytes arrive, or until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    answer = await (reader.readuntil(until) if until else reader.read())
    writer.close()
    return answer


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nbegin"
