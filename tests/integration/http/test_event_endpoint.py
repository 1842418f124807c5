"""The event stream on a real socket, with readers that keep up and readers that do not."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.http import connections, endpoints, event_streams
from gpumand.http.limits import MAX_READERS_PER_PEER
from tests.integration.http.conftest import EVICTION, Served
from tests.integration.http.raw import (
    ask,
    close,
    connect,
    following,
    request,
)
from tests.integration.live import wait_until


async def test_every_reader_gets_an_eviction(served: Served) -> None:
    async with following(served.address) as one, following(served.address) as other:
        served.listener.publish(EVICTION)
        name, fields = await one.next()
        assert name == "EvictionOccurred"
        assert list(fields) == ["consumer", "device", "freed_mib", "method", "trigger", "details"]
        assert fields["details"]["tried"] == ["http"]
        assert await other.next() == (name, fields)


async def test_stream_without_events_sends_keepalives(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "KEEPALIVE_SEC", 0.05)
    async with following(served.address) as events:
        assert await events.comment() == ": keep-alive"
        served.listener.publish(EVICTION)
        assert (await events.next())[0] == "EvictionOccurred"


async def test_stream_has_no_request_timeout(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_TIMEOUT_SEC", 1.0)
    monkeypatch.setattr(event_streams, "KEEPALIVE_SEC", 0.05)
    async with following(served.address) as events:
        for _ in range(30):
            await events.comment()


async def test_reader_that_does_not_read_is_disconnected_and_others_get_all_events(served: Served) -> None:
    reader, writer = await connect(served.address)
    writer.write(request("/v1/events"))
    await reader.readuntil(b"from now on\n\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
    streams, sent = served.listener._streams, 0
    async with following(served.address) as events, asyncio.timeout(30):
        while len(streams) == 2:
            served.listener.publish(EVICTION)
            assert (await events.next())[0] == "EvictionOccurred"
            sent += 1
        served.listener.publish(EVICTION)
        await events.next()
    assert sent > 256
    await close(writer)


async def test_reader_that_does_not_read_times_out_before_its_queue_is_full(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "WRITE_SEC", 0.1)
    reader, writer = await connect(served.address)
    writer.write(request("/v1/events"))
    await reader.readuntil(b"from now on\n\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
    streams = served.listener._streams
    async with following(served.address) as events, asyncio.timeout(30):
        for _ in range(2000):  # fills the buffers of the kernel, while the queue stays below its limit
            served.listener.publish(EVICTION)
            await events.next()
            if len(streams) == 1:
                break

        async def disconnected() -> bool:
            return len(streams) == 1

        await wait_until("the reader is disconnected", disconnected)
    await close(writer)


async def test_reader_that_disconnects_is_removed(served: Served) -> None:
    async def none() -> bool:
        return len(served.listener._streams) == 0

    for half in (True, False):
        reader, writer = await connect(served.address)
        writer.write(request("/v1/events"))
        await reader.readuntil(b"from now on\n\n")
        writer.write_eof() if half else writer.transport.abort()
        await wait_until("the reader is removed", none)
        await close(writer)


async def test_number_of_readers_of_one_user_is_limited(served: Served) -> None:
    opened = [await connect(served.address) for _ in range(MAX_READERS_PER_PEER)]
    for reader, writer in opened:
        writer.write(request("/v1/events"))
        await reader.readuntil(b"from now on\n\n")
    answer = await ask(served.address, "/v1/events")
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    assert (await ask(served.address, "/v1/status")).status == 200
    for _, writer in opened:
        await close(writer)
