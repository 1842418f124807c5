"""Above the maximum number of connections, only those are ended with which nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from gpumand.gateway import connections
from gpumand.gateway.acceptor import Acceptor
from gpumand.gateway.connections import Connection
from tests.unit.gateway.raw_relay import front
from tests.waiting import block_until, until

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
LARGE = 48 * 1024
"""It fits into the buffer of the gateway, so that the request ends, and not into those of the kernel."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def answer_small(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"ok")


async def answer_large(request: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=b"a" * LARGE)


def all_of(acceptor: Acceptor) -> list[Connection]:
    return list(acceptor._connections)


@contextlib.asynccontextmanager
async def connected(port: int) -> AsyncIterator[Streams]:
    """A client with a small buffer, which reads nothing by itself."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=client, limit=1024)
    yield reader, writer
    writer.close()


async def is_ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def served(streams: Streams) -> None:
    """Send a request and read its answer."""
    reader, writer = streams
    writer.write(GET)
    await reader.readuntil(b"\r\n\r\nok")


async def test_slow_reader_keeps_its_connection_and_gets_its_whole_answer() -> None:
    async with front(answer_large, small=True) as (acceptor, port):
        acceptor.max_connections = 1
        async with connected(port) as (reader, writer):
            writer.write(GET)
            await until(lambda: any(one.holds_answer for one in all_of(acceptor)))
            async with connected(port) as (newcomer, _):
                assert await is_ended(newcomer)
            await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(LARGE)

    assert len(body) == LARGE


async def test_answer_in_the_buffers_of_the_kernel_is_not_lost() -> None:
    size = 24 * 1024

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b"a" * size)

    async with front(handle) as (acceptor, port):
        acceptor.max_connections = 1
        async with connected(port) as (reader, writer):
            writer.write(GET)
            await until(lambda: any(one._has_served and one.is_idle for one in all_of(acceptor)))
            (busy,) = all_of(acceptor)
            # asyncio has sent everything; the client, which does not read, has not received it.
            assert (busy.holds_answer, busy.is_expendable) == (False, False)
            async with connected(port) as (newcomer, _):
                assert await is_ended(newcomer)
            await reader.readuntil(b"\r\n\r\n")
            assert len(await reader.readexactly(size)) == size
            await until(lambda: busy.is_expendable)


async def test_oldest_connection_without_a_request_is_ended_for_a_new_one() -> None:
    async with front(answer_small) as (acceptor, port):
        acceptor.max_connections = 2
        async with connected(port) as first, connected(port) as second:
            await served(first)
            await served(second)
            await until(lambda: all(one.is_expendable for one in all_of(acceptor)))
            async with connected(port) as third:
                assert await is_ended(first[0])
                await served(third)
                await served(second)


async def test_connection_that_has_just_sent_a_request_is_not_ended() -> None:
    async with front(answer_small) as (acceptor, port), connected(port) as first, connected(port) as second:
        await served(first)
        await served(second)
        await until(lambda: all(one.is_expendable for one in all_of(acceptor)))
        one, other = all_of(acceptor)
        # As asyncio does it: the head of the next request is received, and its handler begins one turn later.
        one.data_received(GET)
        assert (one.is_idle, one.is_expendable, one.is_receiving) == (True, False, True)
        acceptor.close_idle()
        await first[0].readuntil(b"\r\n\r\nok")
        assert await is_ended(second[0])
        assert other.is_idle


async def test_request_that_was_not_read_yet_is_not_lost() -> None:
    async with front(answer_small) as (acceptor, port), connected(port) as streams:
        await served(streams)
        (one,) = all_of(acceptor)
        await until(lambda: one.is_expendable)
        streams[1].write(GET)
        # The kernel delivers within this turn of the event loop, in which the gateway cannot read.
        block_until(lambda: not one.is_expendable, "the kernel has the request")
        await streams[0].readuntil(b"\r\n\r\nok")


@pytest.mark.parametrize("begin", [b"", b"GET / HT"])
async def test_new_client_has_time_to_send_its_request(begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "QUIET_SEC", 3600.0)
    async with front(answer_small) as (acceptor, port), connected(port) as (_, writer):
        writer.write(begin)
        await until(lambda: len(acceptor))
        (one,) = all_of(acceptor)
        assert not one.is_expendable
        await until(lambda: bool(one._head) == bool(begin))
        # A part of a head counts as a request for as long as heads may take, silence does not.
        monkeypatch.setattr(connections, "QUIET_SEC", 0.0)
        assert one.is_expendable == (not begin)
