"""The connection of a client that closes its sending side while its request is answered."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from gpumand.gateway.acceptor import Acceptor
from gpumand.gateway.connections import Connection, connection_of
from tests.unit.gateway.raw_relay import accepting

SIZE = 3_000_000
"""More than the kernel takes at once."""


class Handler:
    """Answers with a large body when it may; a request for /work needs its client."""

    def __init__(self) -> None:
        self.begun, self.may_answer, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.cancelled = 0
        self.connections: set[Connection] = set()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        self.connections.add(connection)
        connection.begin_request(request)
        try:
            return await self._answer(request)
        finally:
            connection.end_request(is_read=request.content.is_eof())
            self.ended.set()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = connection_of(request)
        if request.path == "/work":
            connection.require_client()
        self.begun.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            response = web.Response(status=400, text="closed")
            response.force_close()
            return response
        response = web.Response(body=bytes(SIZE))
        if connection.is_half_closed:
            response.force_close()
        return response


async def begin(port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return reader, writer


@pytest.mark.parametrize("is_late", [False, True])
async def test_answer_that_needs_no_work_is_sent_to_its_end(is_late: bool) -> None:
    handler = Handler()
    acceptor = Acceptor(handler.handle, 100)
    async with accepting(acceptor) as port:
        reader, writer = await begin(port, "/look")
        if is_late:
            await handler.begun.wait()
        writer.write_eof()
        await handler.begun.wait()
        handler.may_answer.set()
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200")
    assert len(answer) > SIZE


@pytest.mark.parametrize("is_late", [False, True])
async def test_work_is_cancelled_and_its_client_gets_the_reason(is_late: bool) -> None:
    handler = Handler()
    async with accepting(Acceptor(handler.handle, 100)) as port:
        reader, writer = await begin(port, "/work")
        if is_late:
            await handler.begun.wait()
        writer.write_eof()
        answer = await reader.read()
        writer.close()

    assert (answer[:12], answer[-6:], handler.cancelled) == (b"HTTP/1.1 400", b"closed", 1)


async def test_look_after_work_on_the_same_connection_is_answered() -> None:
    """The end of the input arrives before the handler of the second request begins."""
    handler = Handler()
    handler.may_answer.set()
    async with accepting(Acceptor(handler.handle, 100)) as port:
        reader, writer = await begin(port, "/work")
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(SIZE)
        (connection,) = handler.connections
        handler.begun.clear()
        handler.may_answer.clear()
        connection.data_received(b"GET /look HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.eof_received()
        await handler.begun.wait()
        handler.may_answer.set()
        answer = await reader.read()
        writer.close()

    assert (answer[:12], handler.cancelled) == (b"HTTP/1.1 200", 0)


UPLOAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: lo", UPLOAD])
async def test_connection_without_a_complete_request_ends(sent: bytes) -> None:
    async with accepting(Acceptor(Handler().handle, 100)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


async def test_client_that_left_is_forgotten_after_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full close looks the same at first, and nothing is written that would show the difference."""
    monkeypatch.setattr("gpumand.gateway.connections.HALF_CLOSED_SEC", 0.2)
    handler = Handler()
    async with accepting(Acceptor(handler.handle, 100)) as port:
        _, writer = await begin(port, "/look")
        await handler.begun.wait()
        writer.close()
        await handler.ended.wait()

    assert handler.cancelled == 1
