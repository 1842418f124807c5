"""Passes a request on to its consumer and the answer back, both as streams of constant memory."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import aiohttp
from multidict import CIMultiDict

from gpumand.gateway import web
from gpumand.gateway.cors import allow
from gpumand.gateway.dialects import EVENT_STREAM, JSON_LINES
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.headers import is_from_fleet, request_headers, response_headers
from gpumand.gateway.keys import KEY_HEADERS
from gpumand.gateway.refusals import Refused
from gpumand.gateway.request_body import answer_expect, body_of
from gpumand.gateway.upstream import Endpoint, Upstreams

MAX_ERROR_BYTES = 64 * 1024
"""How much of an error document is read, where it has to be put into an answer that has already begun."""

_BODILESS = (204, 304)


class _BareResponse(web.StreamResponse):
    """The head of an answer without a body; its Content-Length is that of the body that GET would get."""

    # Debian 12's aiohttp would send such an answer in chunks, and the client would take their end for the next answer.
    _length_check = False


class AnswerCut(Exception):
    """The consumer ended the connection in the middle of its answer; the client's connection was ended too."""


def sent_headers(exchange: Exchange, endpoint: Endpoint) -> CIMultiDict[str]:
    """The headers of the request to the consumer."""
    settings = exchange.service.settings
    raw = exchange.request.raw_headers
    if exchange.client.has_key or settings.key or is_from_fleet(raw):
        # The key of the gateway, or of another host's gateway, is not for the service, which gets its own.
        raw = tuple((name, value) for name, value in raw if name.decode("ascii").lower() not in KEY_HEADERS)
    headers = request_headers(raw, exchange.origin, endpoint.origin, forward_user=settings.forward_user)
    if settings.key:
        headers["Authorization"] = f"Bearer {settings.key}"
    if exchange.response is not None or exchange.dialect.content_type in (EVENT_STREAM, JSON_LINES):
        # The answer has begun without compression, or may begin so before the consumer answers; its rest must not be
        # compressed either.
        headers["Accept-Encoding"] = "identity"
    return headers


async def begin(
    exchange: Exchange, upstreams: Upstreams, endpoint: Endpoint, body: bytes | None
) -> aiohttp.ClientResponse:
    """Send the request and wait for the head of the answer.

    Args:
        exchange: the request.
        upstreams: the HTTP clients.
        endpoint: where the consumer is.
        body: the body, if it was read already; None passes it on as it arrives.

    Raises:
        UpstreamDown, Refused: there is no answer.
    """
    request, held = exchange.request, exchange.body
    headers = sent_headers(exchange, endpoint)
    streamed: Any = body
    if held is not None:
        streamed = held.data()
        headers.popall("Content-Length", None)
        if held.length is not None:
            headers["Content-Length"] = str(held.length)
    elif body is None and request.body_exists:
        await answer_expect(request)
        streamed = body_of(request)
    return await upstreams.request(endpoint, request.method, exchange.target.raw, headers, streamed)


async def relay(
    exchange: Exchange, answer: aiohttp.ClientResponse, endpoint: Endpoint, read: bytes = b""
) -> web.StreamResponse:
    """Pass an answer on to the client.

    Args:
        exchange: the request.
        answer: the answer.
        endpoint: where it comes from.
        read: the beginning of its body, if that was read already.

    Raises:
        AnswerCut: the answer broke off.
    """
    exchange.entry.answered_sec = asyncio.get_running_loop().time() - exchange.entry.began_at
    if exchange.response is not None:
        return await _continue(exchange, exchange.response, answer)
    headers = response_headers(answer.raw_headers, exchange.origin, endpoint.origin)
    if answer.content_type == EVENT_STREAM:
        headers.setdefault("X-Accel-Buffering", "no")
    is_bare = exchange.request.method == "HEAD" or answer.status in _BODILESS
    kind = _BareResponse if is_bare else web.StreamResponse
    response = kind(status=answer.status, reason=answer.reason, headers=headers)
    exchange.response, exchange.entry.status = response, answer.status
    allow(response.headers, exchange.listed_origin)
    await response.prepare(exchange.request)
    if not is_bare:
        if read:
            await response.write(read)
        await _copy(exchange, response, answer)
    await response.write_eof()
    return response


async def _continue(
    exchange: Exchange, response: web.StreamResponse, answer: aiohttp.ClientResponse
) -> web.StreamResponse:
    """Pass an answer on as the rest of one that has begun with status 200."""
    if answer.status < 400:
        await _copy(exchange, response, answer)
    else:
        await response.write(exchange.dialect.frame(await _error_document(answer)))
    await response.write_eof()
    return response


async def _error_document(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an error, or as much of it as arrives and fits."""
    text = bytearray()
    with contextlib.suppress(aiohttp.ClientError, OSError, Refused):
        # One read returns what has arrived so far, which may be a part of the document.
        while chunk := await answer.content.read(MAX_ERROR_BYTES - len(text)):
            text += chunk
    return bytes(text)


async def _copy(exchange: Exchange, response: web.StreamResponse, answer: aiohttp.ClientResponse) -> None:
    entry = exchange.entry
    content = answer.content
    while True:
        try:
            chunk = await content.readany()
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, Refused):
            # An end of the connection is the only sign of an incomplete answer that every client understands.
            exchange.connection.abort()
            raise AnswerCut from None
        if not chunk:
            return
        entry.sent_bytes += len(chunk)
        await response.write(chunk)


def finish(answer: aiohttp.ClientResponse) -> None:
    """Keep the connection of an answer that was read to its end, and close any other."""
    if answer.content.at_eof():
        answer.release()
    else:
        answer.close()
