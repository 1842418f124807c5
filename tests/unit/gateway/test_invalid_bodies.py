"""A body that the client does not encode validly is the fault of the client, wherever the gateway notices it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from gpumand.gateway.connections import connection_of
from gpumand.gateway.refusals import Refused
from gpumand.gateway.request_body import body_of
from gpumand.gateway.upstream import Upstreams
from tests.unit.gateway.raw_relay import ask, front, passing, server

HEAD = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = b"5\r\nhello\r\n"
BROKEN = [b"zz\r\n", b"5\nhello\n", b"5;a\nb\r\nhello\r\n", b"5\r\nhello!\r\n"]


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.close()


@pytest.mark.parametrize("rest", BROKEN)
async def test_upload_that_breaks_in_the_middle_is_answered_400_and_never_completed(
    upstreams: Upstreams, rest: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    received = asyncio.Event()
    uploads: list[bytes] = []

    async def answer(head: bytes, writer: Any) -> None:
        received.set()

    async with server(answer) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD + FIRST)
        await received.wait()
        writer.write(rest)
        answered = await reader.read()
        again = await ask(port, HEAD + FIRST + rest)
        writer.close()
        uploads = [head for heads in one.heads for head in heads]

    assert answered.startswith(b"HTTP/1.1 400 ")
    assert b"not validly encoded" in answered
    assert again.startswith(b"HTTP/1.1 400 ")
    # Neither connection to the server has carried a second request, or anything that looks like one.
    assert all(len(heads) <= 1 for heads in one.heads)
    assert all(head.startswith(b"POST /v1/audio/transcriptions ") for head in uploads)
    assert "Unhandled" not in caplog.text


async def test_body_that_was_broken_before_its_request_is_handled_is_known_to_be_so() -> None:
    seen: list[object] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(connection_of(request).body.is_broken)
        try:
            _ = [chunk async for chunk in body_of(request)]
        except Refused as error:
            seen.append(error.refusal.status)
        return web.Response(status=204)

    async with front(handle) as (_, port):
        answered = await ask(port, HEAD + b"5\nhello\r\n0\r\n\r\n")

    assert answered.startswith(b"HTTP/1.1 204 ")
    assert seen == [True, 400]


async def test_connection_of_a_valid_chunked_body_serves_the_next_request() -> None:
    bodies: list[bytes] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        bodies.append(b"".join([chunk async for chunk in body_of(request)]))
        return web.Response(body=b"ok")

    async with front(handle) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            for part in (HEAD[:20], HEAD[20:] + b"5", b"\r\nhel", b"lo\r", b"\n0\r\n", b"Digest: a\r\n\r\n"):
                writer.write(part)
                await asyncio.sleep(0)
            await reader.readuntil(b"\r\n\r\nok")
        writer.close()

    assert bodies == [b"hello", b"hello"]
