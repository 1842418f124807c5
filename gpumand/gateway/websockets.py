"""Passes WebSockets: the handshake first at the consumer, then messages in both directions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp
from aiohttp import WSMsgType
from multidict import CIMultiDict

from gpumand.gateway import web
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.forward import sent_headers
from gpumand.gateway.handshakes import HandshakeRefused, OpenSocket, RawHeaders
from gpumand.gateway.headers import response_headers
from gpumand.gateway.upstream import MAX_MESSAGE_BYTES, Endpoint, Upstreams

# aiohttp would log the protocols that a client offers and the consumer does not choose, which may contain an API key.
logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)

SERVICE_RESTART = 1012
GOING_AWAY = 1001
UNSENDABLE = (None, 0, 1005, 1006, 1015)
"""Close codes that stand for the absence of one, and may not be sent."""

POLICY_VIOLATION = 1008

CLOSE_SEC = 5.0

Activity = Callable[[], None]
Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


@dataclass(frozen=True, slots=True)
class End:
    """How a WebSocket was closed: code and text."""

    code: int
    text: str


def is_websocket(request: web.BaseRequest) -> bool:
    """Whether a request opens a WebSocket."""
    connection = request.headers.get("Connection", "").lower()
    return (
        request.method == "GET"
        and request.headers.get("Upgrade", "").lower() == "websocket"
        and "upgrade" in connection
    )


async def open_upstream(exchange: Exchange, upstreams: Upstreams, endpoint: Endpoint) -> OpenSocket:
    """Open the WebSocket at the consumer; the errors are those of ``Upstreams.connect_websocket``."""
    wanted = exchange.request.headers.get("Sec-WebSocket-Protocol", "")
    protocols = tuple(one.strip() for one in wanted.split(",") if one.strip())
    headers = sent_headers(exchange, endpoint)
    return await upstreams.connect_websocket(endpoint, exchange.target.raw, headers, protocols)


async def accept(exchange: Exchange, upstream: OpenSocket, endpoint: Endpoint) -> web.WebSocketResponse:
    """Accept the WebSocket of the client, with the protocol that the consumer has chosen and with its headers."""
    protocols = (upstream.protocol,) if upstream.protocol else ()
    client = web.WebSocketResponse(
        protocols=protocols, autoclose=False, autoping=False, compress=False, max_msg_size=MAX_MESSAGE_BYTES
    )
    client.headers.extend(_headers(exchange, upstream.head, endpoint))
    exchange.response, exchange.entry.status = client, 101
    await client.prepare(exchange.request)
    return client


def refusal(exchange: Exchange, error: HandshakeRefused, endpoint: Endpoint) -> web.Response:
    """The consumer's refusal of a handshake, for the client."""
    headers = _headers(exchange, error.headers, endpoint)
    return web.Response(status=error.status, reason=error.reason, headers=headers, body=error.body)


def _headers(exchange: Exchange, raw: RawHeaders, endpoint: Endpoint) -> CIMultiDict[str]:
    headers = response_headers(raw, exchange.origin, endpoint.origin)
    # An answer 101 has no body, and that of a refusal may have been cut.
    headers.popall("Content-Length", None)
    return headers


async def pump(
    client: web.WebSocketResponse,
    upstream: aiohttp.ClientWebSocketResponse,
    before_message: Callable[[], asyncio.Future[None] | None],
    activity: Activity,
    own_end: Callable[[], End | None],
) -> None:
    """Pass messages until one side closes.

    Args:
        client, upstream: the two WebSockets.
        before_message: called for each data message of the client; a future is awaited before the message is passed.
        activity: called for each data message of the consumer.
        own_end: how the client's side is closed if neither side has closed it; None = as if the service was stopped.
    """
    to_upstream = asyncio.ensure_future(_pass(client, upstream, before_message))
    to_client = asyncio.ensure_future(_pass(upstream, client, activity))
    try:
        await asyncio.wait({to_upstream, to_client}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Both must have ended before a close: while a WebSocket is being read, a close first ends the reading.
        ends = [_end_of(task) for task in (to_upstream, to_client)]
        for task in (to_upstream, to_client):
            task.cancel()
        await asyncio.gather(to_upstream, to_client, return_exceptions=True)
        await _close(upstream, ends[0] or End(GOING_AWAY, ""))
        await _close(client, ends[1] or ends[0] or own_end() or End(SERVICE_RESTART, "the service was stopped"))


def _end_of(task: asyncio.Future[End | None]) -> End | None:
    """How a source has closed; None if it has not, or if its connection broke."""
    return task.result() if task.done() and not task.cancelled() and task.exception() is None else None


async def _pass(
    source: Socket, target: Socket, before_message: Callable[[], asyncio.Future[None] | None]
) -> End | None:
    """Pass messages in one direction until the source closes; returns how, and None if its connection broke."""
    while True:
        message = await source.receive()
        match message.type:
            case WSMsgType.TEXT | WSMsgType.BINARY:
                if (pending := before_message()) is not None:
                    await pending
                await (target.send_str if message.type is WSMsgType.TEXT else target.send_bytes)(message.data)
            case WSMsgType.PING:
                await target.ping(message.data)
            case WSMsgType.PONG:
                await target.pong(message.data)
            case WSMsgType.CLOSE:
                return End(1000 if message.data in UNSENDABLE else message.data, str(message.extra or ""))
            case WSMsgType.ERROR if isinstance(message.data, aiohttp.WebSocketError):
                # The message is too large, or none of the protocol: the other side gets the same code.
                return End(message.data.code, str(message.data))
            case _:
                return None


async def _close(target: Socket, end: End) -> None:
    try:
        async with asyncio.timeout(CLOSE_SEC):
            await target.close(code=end.code, message=end.text.encode()[:120])
    except (TimeoutError, ConnectionError, RuntimeError, aiohttp.ClientError):
        return
