"""Answers of load routes that are streams: the last event decides."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from aiohttp import web

from gpumand.consumers.http_exchange import BODY_BYTES, STREAM_BYTES
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, Route
from gpumand.ports import RouteFailed

from .servers import raw_server, web_server

STREAMED = Route("/load", timeout_sec=20, success="/status", success_equals="finished", error="/error/message")
PROGRESS = b'data: {"model_type": "model", "module": 1, "modules": 41, "status": "processing"}\r\n\r\n'
FINISHED = b'data: {"model_type": "model", "module": 41, "modules": 41, "status": "finished"}\r\n\r\n'
CUDA_ERROR = b'data: {"error": {"message": "CUDA out of memory", "trace": "Traceback"}}\r\n\r\n'


async def _load_streamed(
    routes: HttpRoutes, *parts: bytes, content_type: str = "text/event-stream", route: Route = STREAMED
) -> None:
    """Load a consumer whose load route answers with these parts of a stream."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type})
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    async with web_server(handler) as url:
        await routes.load(ConsumerSpec("c", 1, url=url, load=route))


@pytest.mark.parametrize("content_type", ["text/event-stream; charset=utf-8", "text/plain", "application/json"])
async def test_last_event_of_a_stream_decides_whether_the_load_succeeded(routes: HttpRoutes, content_type: str) -> None:
    await _load_streamed(routes, PROGRESS, b": ping\r\n\r\n", FINISHED, content_type=content_type)
    with pytest.raises(RouteFailed, match="answered 200, but reports a failure: CUDA out of memory"):
        await _load_streamed(routes, PROGRESS * 3, CUDA_ERROR, content_type=content_type)


async def test_stream_that_ends_without_a_result_is_a_failed_load(routes: HttpRoutes) -> None:
    with pytest.raises(RouteFailed, match=r'reports a failure: .*"status": "processing"'):
        await _load_streamed(routes, PROGRESS)
    with pytest.raises(RouteFailed, match="no usable value at /status: it is empty"):
        await _load_streamed(routes)


async def test_json_lines_are_read_like_events(routes: HttpRoutes) -> None:
    route = Route("/load", success="/done", error="/error")
    lines = b'{"status": "pulling"}\n{"done": true}\n'
    await _load_streamed(routes, lines, content_type="application/x-ndjson", route=route)
    broken = lines + b'{"error": "model runner has unexpectedly stopped"}\n'
    with pytest.raises(RouteFailed, match="reports a failure: model runner has unexpectedly stopped"):
        await _load_streamed(routes, broken, content_type="application/x-ndjson", route=route)


@pytest.mark.parametrize("size", [BODY_BYTES - 50, BODY_BYTES, BODY_BYTES + 10, 3 * BODY_BYTES])
async def test_end_of_a_long_stream_decides(routes: HttpRoutes, size: int) -> None:
    progress = PROGRESS * (size // len(PROGRESS))
    await _load_streamed(routes, progress, FINISHED)
    with pytest.raises(RouteFailed, match="reports a failure: CUDA out of memory"):
        await _load_streamed(routes, progress, CUDA_ERROR)


async def test_answer_that_is_not_read_to_its_end_is_no_success(
    routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _load_streamed(routes, FINISHED, b" " * BODY_BYTES, route=Route("/load"))  # the status is enough there
    monkeypatch.setattr("gpumand.consumers.http_exchange.STREAM_BYTES", 2 * BODY_BYTES)
    assert STREAM_BYTES > 2 * BODY_BYTES
    with pytest.raises(RouteFailed, match="too long to be read to its end"):
        await _load_streamed(routes, FINISHED, *[b": ping\n\n" + b" " * BODY_BYTES] * 3)


async def test_stream_that_breaks_off_or_does_not_end_is_reported_with_its_last_line(routes: HttpRoutes) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%s\r\n" % (len(PROGRESS), PROGRESS))
        await writer.drain()

    async def stay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await break_off(reader, writer)
        await reader.read()

    for session, message in ((break_off, "ended early"), (stay, "did not end within 1 s")):
        async with raw_server(session) as server:
            consumer = ConsumerSpec("c", 1, url=server.url, load=replace(STREAMED, timeout_sec=1.0))
            with pytest.raises(RouteFailed, match=f"{message}; its last line was data: .*processing"):
                await routes.load(consumer)
