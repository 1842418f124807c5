"""The stream of events on a real socket: readers that hear everything, and those that do not read."""

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


async def test_every_reader_hears_of_an_eviction(served: Served) -> None:
    async with following(served.where) as one, following(served.where) as other:
        served.front.publish(EVICTION)
        name, fields = await one.next()
        assert name == "EvictionOccurred"
        assert list(fields) == ["consumer", "device", "freed_mib", "method", "trigger", "details"]
        assert fields["details"]["tried"] == ["http"]
        assert await other.next() == (name, fields)


async def test_quiet_stream_says_that_it_lives(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_streams, "KEEPALIVE_SEC", 0.05)
    async with following(served.where) as events:
        assert await events.comment() == ": still here"
        served.front.publish(EVICTION)
        assert (await events.next())[0] == "EvictionOccurred"


async def test_stream_outlives_the_limit_of_other_requests(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LIFE_SEC", 0.2)
    monkeypatch.setattr(event_streams, "KEEPALIVE_SEC", 0.05)
    async with following(served.where) as events:
        for _ in range(10):
            await events.comment()


async def test_reader_that_does_not_read_is_cut_off_and_others_hear_everything(served: Served) -> None:
    reader, writer = await connect(served.where)
    writer.write(request("/v1/events"))
    await reader.readuntil(b"from now on\n\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
    hub, told = served.front._streams, 0
    async with following(served.where) as events, asyncio.timeout(30):
        while len(hub) == 2:
            served.front.publish(EVICTION)
            assert (await events.next())[0] == "EvictionOccurred"
            told += 1
        served.front.publish(EVICTION)
        await events.next()
    assert told > 256
    await close(writer)


async def test_reader_that_takes_nothing_of_little_is_cut_off_in_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "WRITE_SEC", 0.1)
    reader, writer = await connect(served.where)
    writer.write(request("/v1/events"))
    await reader.readuntil(b"from now on\n\n")
    reader._transport.pause_reading()  # type: ignore[attr-defined]  # a client that does not read
    hub = served.front._streams
    async with following(served.where) as events, asyncio.timeout(30):
        for _ in range(2000):  # it fills what the system buffers, and what waits stays below the cap of the queue
            served.front.publish(EVICTION)
            await events.next()
            if len(hub) == 1:
                break

        async def gone() -> bool:
            return len(hub) == 1

        await wait_until("it is cut off", gone)
    await close(writer)


async def test_reader_that_leaves_is_forgotten(served: Served) -> None:
    async def none() -> bool:
        return len(served.front._streams) == 0

    for half in (True, False):
        reader, writer = await connect(served.where)
        writer.write(request("/v1/events"))
        await reader.readuntil(b"from now on\n\n")
        writer.write_eof() if half else writer.transport.abort()
        await wait_until("it is forgotten", none)
        await close(writer)


async def test_readers_are_capped_for_one_user(served: Served) -> None:
    opened = [await connect(served.where) for _ in range(MAX_READERS_PER_PEER)]
    for reader, writer in opened:
        writer.write(request("/v1/events"))
        await reader.readuntil(b"from now on\n\n")
    answer = await ask(served.where, "/v1/events")
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    assert (await ask(served.where, "/v1/status")).status == 200
    for _, writer in opened:
        await close(writer)
