"""Connections that are kept between requests, over real sockets."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.consumers import http_exchange
from gpumand.consumers.routes import HttpRoutes
from gpumand.domain.consumer import ConsumerSpec, Route
from gpumand.ports import RouteFailed
from tests.integration.service_manager.host import until

from .servers import raw_server, spec

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"loaded":true}'


async def test_probe_over_a_connection_that_the_server_is_closing_is_repeated(routes: HttpRoutes) -> None:
    async def close_at_the_second_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await reader.readuntil(b"\r\n\r\n")

    async with raw_server(close_at_the_second_request) as server:
        for _ in range(3):
            assert (await routes.probe_health(spec(server.url))).loaded is True
        assert server.connections == 3


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_load_is_never_sent_over_a_kept_connection(routes: HttpRoutes, method: str) -> None:
    """The server may be closing it, and a load that may have been received must not be sent again."""

    async def answer_once_and_break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = await reader.readuntil(b"\r\n\r\n")
        server.received.append(received)
        if b" /load " not in received:
            writer.write(ANSWER)
            server.received.append(await reader.readuntil(b"\r\n\r\n"))

    async with raw_server(answer_once_and_break_off) as server:
        consumer = ConsumerSpec(
            "c", 1, url=server.url, health=spec(server.url).health, load=Route("/load", method=method)
        )
        assert (await routes.probe_health(consumer)).loaded is True
        with pytest.raises(RouteFailed, match="closed the connection without an answer"):
            await routes.load(consumer)
        assert [one.split(b" ")[0] for one in server.received] == [b"GET", method.encode()]


async def test_idle_connection_is_closed_after_a_moment(routes: HttpRoutes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_exchange, "KEEPALIVE_SEC", 0.05)
    ended = 0

    async def answer_until_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await reader.read()
        ended += 1

    async with raw_server(answer_until_the_end) as server:
        assert (await routes.probe_health(spec(server.url))).loaded is True
        await until(lambda: ended == 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\n\r\n" + b'{"loaded":true}',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"loaded":true}',
        b"HTTP/1.1 102 Processing\r\n\r\n" + ANSWER,
        b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b'3\r\n{"l\r\nc;x=y\r\noaded":true}\r\n0\r\nX: y\r\n\r\n',
        ANSWER + b"HTTP/1.1 200 OK\r\n\r\nunasked",
    ],
    ids=["http-1.0", "until-close", "interim", "chunked", "unasked-answer"],
)
async def test_forms_of_answers(routes: HttpRoutes, answer: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with raw_server(handler) as server:
        for _ in range(2):
            assert (await routes.probe_health(spec(server.url))).loaded is True
        assert server.connections == 2


async def test_one_connection_to_a_server_is_kept(routes: HttpRoutes) -> None:
    """After many requests at the same time, their connections must not all stay open."""

    async def keep_answering(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.05)
            writer.write(ANSWER)

    async with raw_server(keep_answering) as server:
        probes = [routes.probe_health(spec(server.url, timeout_sec=30)) for _ in range(4)]
        assert all(health.loaded for health in await asyncio.gather(*probes))
        assert routes._exchange is not None
        assert [len(kept) for kept in routes._exchange._idle.values()] == [1]
