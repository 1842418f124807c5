from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gpumand.bus import send_queue
from gpumand.bus.connection import BusConnection, BusLost, Reply, Signal
from gpumand.testing.bus import PrivateBus
from tests.integration.bus.adapter import FACE, Server, peers, until


@pytest.fixture
async def own_bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as running:
        yield running
        running.resume()


@pytest.mark.parametrize(("size", "count"), [(8, 5000), (1000, 2000), (200_000, 40)])
async def test_a_stalled_bus_loses_nothing_and_turns_nothing_around(own_bus: PrivateBus, size: int, count: int) -> None:
    """The binding's own writer dies here, or (1.84) sends in reverse."""
    async with peers(own_bus, 2) as (sender, client):
        heard: list[int] = []
        await client.subscribe(callback=lambda signal: heard.append(signal.body[0]), sender=sender.unique_name)
        own_bus.pause()
        for number in range(count):
            sender.emit("/a", FACE, "S", "us", (number, "x" * size))
        assert sender._outbox.unsent_bytes > 0
        own_bus.resume()
        await sender.flush()
        assert sender._outbox.unsent_bytes == 0
        await until(lambda: len(heard) == count)
        assert heard == list(range(count))


async def test_calls_and_answers_survive_a_stalled_bus(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        Server(server)
        own_bus.pause()
        calls = [
            asyncio.ensure_future(client.call(server.unique_name, "/", FACE, "Echo", "us", (number, "x" * 1000)))
            for number in range(1000)
        ]
        await until(lambda: client._outbox.unsent_bytes > 0)
        own_bus.resume()
        assert [answer[0] for answer in await asyncio.gather(*calls)] == list(range(1000))


async def test_a_thousand_answers_at_once_are_no_problem(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 9) as (server, *clients):
        served = Server(server)
        calls = [
            asyncio.ensure_future(clients[number % 8].call(server.unique_name, "/", FACE, "Slow"))
            for number in range(1000)
        ]
        await until(lambda: served.waiting == 1000)
        served.go.set()
        assert set(await asyncio.gather(*calls)) == {("done",)}


async def test_the_unsent_are_bounded(own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    async with peers(own_bus, 1) as (sender,):
        monkeypatch.setattr(sender._outbox, "_limit_bytes", 1_000_000)
        own_bus.pause()
        for _ in range(3000):
            sender.emit("/a", FACE, "S", "s", ("x" * 1000,))
        await sender.wait_lost()
        own_bus.resume()
        assert "takes no messages" in sender.lost_reason
        with pytest.raises(BusLost, match="takes no messages"):
            sender.emit("/a", FACE, "S", "", ())
        await sender.flush()


def test_the_bound_is_what_was_decided() -> None:
    assert send_queue.MAX_UNSENT_BYTES == 64 * 1024 * 1024


async def test_leaving_a_stalled_bus_takes_a_bounded_time(
    own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gpumand.bus.connection.CLOSE_TIMEOUT_SEC", 0.05)
    connection = await BusConnection.connect(own_bus.address)
    own_bus.pause()
    for _ in range(2000):
        connection.emit("/a", FACE, "S", "s", ("x" * 1000,))
    async with asyncio.timeout(5):
        await connection.close()
    assert "did not take" in caplog.text


async def test_what_was_sent_before_leaving_arrives(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (leaver, client):
        heard: list[Signal] = []
        await client.subscribe(callback=heard.append, member="S")
        for _ in range(3000):
            leaver.emit("/a", FACE, "S", "s", ("x" * 100,))
        await leaver.close()
        await until(lambda: len(heard) == 3000)


async def test_the_binding_writes_through_our_outbox(own_bus: PrivateBus) -> None:
    """Pins the one private attribute that is used, for whatever version of the binding is installed."""
    async with peers(own_bus, 2) as (one, other):
        assert one._bus._writer.sock is one._outbox
        other.serve(lambda call: Reply())
        await one.call(other.unique_name, "/", FACE, "Echo")
