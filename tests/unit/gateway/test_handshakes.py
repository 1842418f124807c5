"""The answer of a server to the handshake of a WebSocket reaches the client, also where it opens none."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from gpumand.gateway import handshakes, upstream, websockets
from gpumand.gateway.exchange import refusal_response
from gpumand.gateway.refusals import Refused
from gpumand.gateway.requests import RequestTable
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.socket_requests import SocketHandler
from gpumand.gateway.upstream import Endpoint, Upstreams
from tests.unit.gateway.raw_relay import Handle, ask, exchange_of, front, server

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: other, chat\r\n\r\n"
)
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
KEYS = re.compile(rb"(?i)sec-websocket-key: (\S+)")
COOKIES = b"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\n"


@pytest.fixture
async def upstreams() -> AsyncIterator[Upstreams]:
    made = Upstreams()
    yield made
    await made.close()


def passing(upstreams: Upstreams, endpoint: Endpoint) -> Handle:
    """Handles a handshake as the gateway does without a lease."""

    async def endpoint_of(exchange: object) -> Endpoint:
        return endpoint

    parts, looks = SimpleNamespace(upstreams=upstreams), SimpleNamespace(endpoint=endpoint_of)
    handler = SocketHandler(cast(Any, parts), cast(Any, looks), cast(Any, None))

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = exchange_of(request)
        table = RequestTable(cast(Any, None))
        exchange.entry = table.add(exchange.client, "fake", request.method, "/ws", RouteClass.LOOK)
        try:
            return await handler.handle(exchange)
        except Refused as error:
            return refusal_response(error.refusal, exchange.dialect.api)

    return handle


async def answered(upstreams: Upstreams, sent: bytes) -> tuple[bytes, bytes, int]:
    """The head and the body that the client gets for an answer of the server, and the number of its requests."""

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(sent)

    async with server(answer) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await reader.readexactly(int(length[1]) if length else 0)
        writer.close()
    return head, body, sum(map(len, one.heads))


async def test_refusal_of_a_handshake_passes_with_its_headers_and_its_body(upstreams: Upstreams) -> None:
    sent = b"HTTP/1.1 401 Sign In\r\nWWW-Authenticate: Bearer\r\n" + COOKIES
    sent += b"Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nRetry-After: 7\r\n"
    sent += b'Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{"error": "no"}'

    head, body, _ = await answered(upstreams, sent)

    assert head.startswith(b"HTTP/1.1 401 Sign In\r\n")
    assert body == b'{"error": "no"}'
    for line in (
        *COOKIES.splitlines(),
        b"WWW-Authenticate: Bearer",
        b"Retry-After: 7",
        b"Content-Type: application/json",
    ):
        assert line in head.splitlines()
    assert b"X-Hop" not in head
    assert b"Keep-Alive" not in head


@pytest.mark.parametrize("framing", [b"Content-Length: 200000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n30d40\r\n"])
async def test_long_body_of_a_refusal_is_cut(upstreams: Upstreams, framing: bytes) -> None:
    end = b"\r\n0\r\n\r\n" if b"chunked" in framing else b""

    head, body, _ = await answered(upstreams, b"HTTP/1.1 403 No\r\n" + framing + b"a" * 200_000 + end)

    assert head.startswith(b"HTTP/1.1 403 No\r\n")
    assert body == b"a" * handshakes.MAX_BODY_BYTES
    assert b"chunked" not in head.lower()


async def test_body_of_a_refusal_that_stalls_is_passed_as_far_as_it_arrived(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshakes, "BODY_SEC", 0.2)

    _, body, _ = await answered(upstreams, b"HTTP/1.1 503 No\r\nContent-Length: 100\r\n\r\nsome")

    assert body == b"some"


async def test_redirect_of_a_handshake_is_passed_on_and_not_followed(upstreams: Upstreams) -> None:
    head, _, requests = await answered(
        upstreams, b"HTTP/1.1 307 Elsewhere\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n"
    )

    assert head.startswith(b"HTTP/1.1 307 Elsewhere\r\n")
    assert b"Location: /other" in head.splitlines()
    assert requests == 1


async def test_handshake_that_the_server_answers_wrongly_is_refused_502(upstreams: Upstreams) -> None:
    sent = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"

    head, _, _ = await answered(upstreams, sent + b"Sec-WebSocket-Accept: wrong\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 502 ")


def accepted(head: bytes, more: bytes = b"") -> bytes:
    """The answer of a server that opens a WebSocket."""
    key = KEYS.search(head)
    assert key is not None
    accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
    sent = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    return sent + b"Sec-WebSocket-Accept: " + accept + b"\r\n" + more + b"\r\n"


async def test_websocket_is_opened_with_the_headers_of_the_server(upstreams: Upstreams) -> None:
    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        hops = b"Sec-WebSocket-Protocol: chat\r\nKeep-Alive: 5\r\nContent-Length: 0\r\nX-Backend: one\r\n"
        writer.write(accepted(head, COOKIES + hops) + b"\x81\x02hi")

    async with server(answer) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        answered = await ask(port, HANDSHAKE, until=b"\x81\x02hi")

    lines = answered.partition(b"\r\n\r\n")[0].splitlines()
    assert lines[0] == b"HTTP/1.1 101 Switching Protocols"
    for line in (*COOKIES.splitlines(), b"Sec-WebSocket-Protocol: chat", b"X-Backend: one"):
        assert lines.count(line) == 1
    names = [line.partition(b":")[0].lower() for line in lines]
    assert names.count(b"sec-websocket-accept") == names.count(b"upgrade") == 1
    assert b"keep-alive" not in names
    assert b"content-length" not in names


TOO_LARGE = b"\x03\xf1"
"""Close code 1009."""


async def test_too_large_message_of_the_server_closes_both_sides_with_its_code(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "MAX_MESSAGE_BYTES", 64)

    async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(head) + b"\x82\x64" + bytes(100))

    async with server(answer) as one, front(passing(upstreams, one.endpoint)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        frame = await reader.readexactly(4)
        writer.close()

    assert (frame[0], frame[2:]) == (0x88, TOO_LARGE)


async def test_too_large_message_of_the_client_closes_both_sides_with_its_code(
    upstreams: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websockets, "MAX_MESSAGE_BYTES", 64)
    readers: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(accepted(await reader.readuntil(b"\r\n\r\n")))
        await readers.put((reader, writer))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    async with front(passing(upstreams, Endpoint(url, url))) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x82\xe4" + bytes(4) + bytes(100))
        to_client = await reader.readexactly(4)
        from_gateway, to_gateway = await readers.get()
        head = await from_gateway.readexactly(8)
        to_gateway.close()
        writer.close()
    listening.close()

    assert (to_client[0], to_client[2:]) == (0x88, TOO_LARGE)
    code = bytes(byte ^ mask for byte, mask in zip(head[6:], head[2:], strict=False))
    assert (head[0], code) == (0x88, TOO_LARGE)
