from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from gpumand.bus import send_queue
from gpumand.bus.connection import BusConnection, BusLost, Reply, Signal
from gpumand.testing.bus import PrivateBus
from tests.integration.bus.adapter import INTERFACE, Server, peers
from tests.waiting import until


@pytest.fixture
async def own_bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as running:
        yield running
        running.resume()


@pytest.mark.parametrize(("size", "count"), [(8, 5000), (1000, 2000), (200_000, 40)])
async def test_stalled_bus_loses_no_messages_and_keeps_their_order(own_bus: PrivateBus, size: int, count: int) -> None:
    """dbus-fast's own writer fails here, or sends in reverse order (1.84)."""
    async with peers(own_bus, 2) as (sender, client):
        received: list[int] = []
        await client.subscribe(callback=lambda signal: received.append(signal.body[0]), sender=sender.unique_name)
        own_bus.pause()
        for number in range(count):
            sender.emit("/a", INTERFACE, "S", "us", (number, "x" * size))
        assert sender._send_queue.unsent_bytes > 0
        own_bus.resume()
        await sender.flush()
        assert sender._send_queue.unsent_bytes == 0
        await until(lambda: len(received) == count)
        assert received == list(range(count))


async def test_calls_and_replies_survive_a_stalled_bus(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        Server(server)
        own_bus.pause()
        calls = [
            asyncio.ensure_future(client.call(server.unique_name, "/", INTERFACE, "Echo", "us", (number, "x" * 1000)))
            for number in range(1000)
        ]
        await until(lambda: client._send_queue.unsent_bytes > 0)
        own_bus.resume()
        assert [answer[0] for answer in await asyncio.gather(*calls)] == list(range(1000))


async def test_a_thousand_simultaneous_replies_are_delivered(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 9) as (server, *clients):
        served = Server(server)
        calls = [
            asyncio.ensure_future(clients[number % 8].call(server.unique_name, "/", INTERFACE, "Slow"))
            for number in range(1000)
        ]
        await until(lambda: served.waiting == 1000)
        served.go.set()
        assert set(await asyncio.gather(*calls)) == {("done",)}


async def test_unsent_bytes_are_bounded(own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peers(own_bus, 1) as (sender,):
        monkeypatch.setattr(sender._send_queue, "_limit_bytes", 1_000_000)
        own_bus.pause()
        counted = [sender._send_queue.unsent_bytes]
        for _ in range(3000):
            sender.emit("/a", INTERFACE, "S", "s", ("x" * 1000,))
            counted.append(sender._send_queue.unsent_bytes)
        # All of it in one turn, in which nothing is written: each message counts at once, or the turn has no limit.
        assert all(later - earlier >= 1000 for earlier, later in pairwise(counted[:900]))
        assert max(counted) <= 1_000_000
        await sender.wait_lost()
        own_bus.resume()
        assert "accepts no messages" in sender.lost_reason
        with pytest.raises(BusLost, match="accepts no messages"):
            sender.emit("/a", INTERFACE, "S", "", ())
        await sender.flush()


def test_limit_of_unsent_bytes_is_64_mib() -> None:
    assert send_queue.MAX_UNSENT_BYTES == 64 * 1024 * 1024


async def test_closing_on_a_stalled_bus_takes_bounded_time(
    own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpumand.bus.connection.CLOSE_TIMEOUT_SEC", 0.05)
    connection = await BusConnection.connect(own_bus.address)
    own_bus.pause()
    for _ in range(2000):
        connection.emit("/a", INTERFACE, "S", "s", ("x" * 1000,))
    async with asyncio.timeout(30):
        await connection.close()
    assert "unsent bytes" in caplog.text


async def test_messages_sent_before_closing_arrive(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (leaver, client):
        received: list[Signal] = []
        await client.subscribe(callback=received.append, member="S")
        for _ in range(3000):
            leaver.emit("/a", INTERFACE, "S", "s", ("x" * 100,))
        await leaver.close()
        await until(lambda: len(received) == 3000)


async def test_dbus_fast_writes_through_the_send_queue(own_bus: PrivateBus) -> None:
    """Check the private attribute that the send queue uses, for the installed version of dbus-fast."""
    async with peers(own_bus, 2) as (one, other):
        written_to: object = getattr(one._bus._writer, "sock", None)
        assert written_to is one._send_queue
        other.serve(lambda call: Reply())
        await one.call(other.unique_name, "/", INTERFACE, "Echo")
