"""Requests and answers pass between the gateway's connections to clients and to servers, byte by byte."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gpumand.gateway import forward, request_body
from gpumand.gateway.dialects import EVENT_STREAM, JSON, JSON_LINES, Api, Dialect
from gpumand.gateway.holding import Holder, HoldTimes
from gpumand.gateway.upstream import Endpoint, Upstreams
from tests.unit.gateway.raw_relay import (
    DEADLINE_SEC,
    GET,
    OK,
    UPLOAD,
    answer_ok,
    ask,
    exchange_of,
    front,
    passing,
    server,
)


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.close()


@pytest.mark.parametrize("is_unix", [False, True])
async def test_connection_of_an_upload_that_was_answered_early_is_not_used_again(
    upstreams: Upstreams, tmp_path: Path, is_unix: bool
) -> None:
    path = tmp_path / "s" if is_unix else None
    async with server(answer_ok, path) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        first = await ask(port, UPLOAD, until=b"\r\n\r\nok")
        second = await ask(port, GET)

    assert first.startswith(b"HTTP/1.1 200")
    assert second.startswith(b"HTTP/1.1 200")
    assert [len(heads) for heads in one.heads] == [1, 1]


async def test_connection_of_a_request_without_an_upload_is_used_again(upstreams: Upstreams) -> None:
    async with server(answer_ok) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        for _ in range(3):
            assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")

    assert len(one.heads) == 1


@pytest.mark.parametrize(
    ("first", "answered"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        (b"HEAD / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\nETag: a\r\n\r\n"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
    ],
)
async def test_answer_without_a_body_is_followed_by_the_next_answer(
    upstreams: Upstreams, first: bytes, answered: bytes
) -> None:
    waiting = [answered, OK]

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(waiting.pop(0))

    async with server(answer) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        bare = await reader.readuntil(b"\r\n\r\n")
        writer.write(GET)
        rest = await reader.read()
        writer.close()

    assert bare.startswith(answered.partition(b"\r\n")[0])
    assert (b"content-length: 5" in bare.lower()) == (b"Length: 5" in answered)
    assert rest.startswith(b"HTTP/1.1 200")
    assert rest.endswith(b"\r\n\r\nok")


async def test_upload_that_stalls_is_the_fault_of_the_client(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_body, "BODY_STALL_SEC", 0.05)

    async def silence(head: bytes, writer: asyncio.StreamWriter) -> None:
        return

    async with server(silence) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        answer = await ask(port, UPLOAD, until=b"The client has sent nothing for 0.05 s.")

    assert answer.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("content_type", [EVENT_STREAM, JSON_LINES, JSON, ""])
async def test_answer_that_may_begin_early_is_not_compressed(upstreams: Upstreams, content_type: str) -> None:
    sent: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request, Dialect(Api.OPENAI, content_type))
        sent.append(forward.sent_headers(exchange, Endpoint("http://a", "http://a"))["Accept-Encoding"])
        return web.Response()

    async with front(handle) as (_, port):
        await ask(port, GET.replace(b"Connection", b"Accept-Encoding: gzip\r\nConnection"))

    assert sent == ["identity" if content_type in (EVENT_STREAM, JSON_LINES) else "gzip"]


async def test_error_document_that_arrives_in_parts_is_put_whole_into_an_answer_that_has_begun(
    upstreams: Upstreams,
) -> None:
    document = b'{"error": {"message": "out of memory"}}'

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: %d\r\n\r\n" % len(document))
        for at in range(0, len(document), 10):
            writer.write(document[at : at + 10])
            await writer.drain()
            # Each part is sent alone, and arrives before the next one.
            await asyncio.sleep(0.01)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request, Dialect(Api.OPENAI, EVENT_STREAM))
        exchange.response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM})
        await exchange.response.prepare(request)
        return await forward.relay(exchange, await forward.begin(exchange, upstreams, one.endpoint, None), one.endpoint)

    async with server(answer) as one, front(handle) as (_, port):
        answered = await ask(port, GET)

    assert b'data: {"error":{"message":"out of memory"}}' in answered


async def test_nothing_is_written_to_a_websocket_while_its_lease_is_acquired() -> None:
    upgrade = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
    upgrade += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    results: list[str] = []

    async def describe() -> str:
        return "waiting"

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request)
        exchange.response = client = web.WebSocketResponse()
        await client.prepare(request)
        lease: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, lease.set_result, "granted")
        results.append(await Holder(exchange, HoldTimes(30.0, 0.0, 0.001), describe).wait(lease, is_limited=True))
        await client.send_str("hello")
        return client

    async with front(handle) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(upgrade)
        head = await reader.readuntil(b"\r\n\r\n")
        message = await reader.readexactly(7)
        writer.close()

    assert head.startswith(b"HTTP/1.1 101")
    assert results == ["granted"]
    assert message == b"\x81\x05hello"


async def test_answer_that_the_client_still_reads_is_sent_whole_when_the_gateway_stops() -> None:
    # It fits into the buffer of the gateway, so the request ends, and not into those of the kernel.
    size = 48 * 1024
    accepted = asyncio.Event()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        accepted.set()
        return web.Response(body=b"a" * size)

    async with front(handle, small=True) as (acceptor, port):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=client, limit=1024)
        writer.write(GET.replace(b"Connection: close\r\n", b""))
        await accepted.wait()
        async with asyncio.timeout(DEADLINE_SEC):
            while True:
                if any(one.holds_answer for one in acceptor._connections):
                    break
                await asyncio.sleep(0.01)
        acceptor.close_idle()
        closing = asyncio.ensure_future(acceptor.close())
        answer = await reader.read()
        await closing
        writer.close()

    assert len(answer.partition(b"\r\n\r\n")[2]) == size
