from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from dbus_fast import Message, MessageFlag
from dbus_fast.aio import MessageBus

from gpumand.bus import call_server
from gpumand.bus.connection import IncomingCall, Reply
from gpumand.testing.bus import PrivateBus
from tests.integration.bus.adapter import INTERFACE, NAME, Server, error_of, peers
from tests.waiting import until

FAILED = "org.gpumand1.Error.Failed"
LIMITS = "org.freedesktop.DBus.Error.LimitsExceeded"


@pytest.fixture
async def own_bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as running:
        yield running


async def test_gpumand_error_keeps_its_name(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        Server(server)
        error = await error_of(client.call(server.unique_name, "/", INTERFACE, "Busy"))
        assert (error.name, error.message) == ("org.gpumand1.Error.Busy", "another client has it")


async def test_other_errors_reveal_nothing(own_bus: PrivateBus, caplog: pytest.LogCaptureFixture) -> None:
    async with peers(own_bus, 2) as (server, client):
        Server(server)
        error = await error_of(client.call(server.unique_name, "/", INTERFACE, "Broken"))
    assert (error.name, error.message) == (FAILED, "internal error")
    assert "/a/secret/path" in caplog.text
    assert "Traceback" in caplog.text


@pytest.mark.parametrize(
    "reply",
    [
        Reply("s", (1,)),
        Reply("u", (-1,)),
        Reply("su", ("one",)),
        Reply("s", ("a\0b",)),
        Reply("s", ("\ud800",)),
        Reply("(", ()),
    ],
)
async def test_reply_that_cannot_be_sent_is_an_internal_error(own_bus: PrivateBus, reply: Reply) -> None:
    async with peers(own_bus, 2) as (server, client):
        server.serve(lambda call: reply if call.member == "Bad" else Reply("s", ("fine",)))
        error = await error_of(client.call(server.unique_name, "/", INTERFACE, "Bad", timeout_sec=5))
        assert error.name == FAILED
        assert await client.call(server.unique_name, "/", INTERFACE, "Good") == ("fine",)


async def test_cancelled_waiting_call_gets_an_error(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 3) as (server, leaver, stayer):
        served = Server(server)
        calls = [
            asyncio.ensure_future(one.call(server.unique_name, "/", INTERFACE, "Slow")) for one in (leaver, stayer)
        ]
        await until(lambda: served.waiting == 2)
        server.cancel_calls_of(leaver.unique_name)
        server.cancel_calls_of(":1.999")
        assert (await error_of(calls[0])).name == FAILED
        assert served.cancelled == 1
        served.go.set()
        assert await calls[1] == ("done",)


async def test_call_cancelled_before_its_task_starts_gets_an_error(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)

        def cancels_at_once(call: IncomingCall) -> Reply | asyncio.Future[Reply]:
            if call.member == "Cancel":
                return Reply()
            asyncio.get_running_loop().call_soon(server.cancel_calls_of, call.sender)
            return asyncio.ensure_future(served.slow())

        server.serve(cancels_at_once)
        assert (await error_of(client.call(server.unique_name, "/", INTERFACE, "Slow", timeout_sec=5))).name == FAILED


async def test_call_without_expected_reply_gets_none(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 1) as (server,):
        served = Server(server)
        client = await MessageBus(bus_address=own_bus.address).connect()
        answers: list[Message] = []
        client.add_message_handler(lambda message: answers.append(message) if message.reply_serial else None)
        for member in ("Echo", "Busy", "Broken", "Slow"):
            await client.send(
                Message(
                    destination=server.unique_name,
                    path="/",
                    interface=INTERFACE,
                    member=member,
                    flags=MessageFlag.NO_REPLY_EXPECTED,
                )
            )
        served.go.set()
        wanted = Message(destination=server.unique_name, path="/", interface=INTERFACE, member="Echo")
        assert await client.call(wanted) is not None
        assert len(served.calls) == 5
        assert [answer.reply_serial for answer in answers] == [wanted.serial]
        client.disconnect()
        await client.wait_for_disconnect()


async def test_waiting_calls_of_one_sender_are_limited(own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    cap = 20
    monkeypatch.setattr(call_server, "MAX_WAITING_PER_SENDER", cap)
    async with peers(own_bus, 3) as (server, busy_client, other_client):
        served = Server(server)
        calls = [
            asyncio.ensure_future(busy_client.call(server.unique_name, "/", INTERFACE, "Slow")) for _ in range(cap)
        ]
        await until(lambda: served.waiting == cap)
        assert (await error_of(busy_client.call(server.unique_name, "/", INTERFACE, "Slow"))).name == LIMITS
        assert await busy_client.call(server.unique_name, "/", INTERFACE, "Echo", "u", (1,)) == (1,)
        other = asyncio.ensure_future(other_client.call(server.unique_name, "/", INTERFACE, "Slow"))
        await until(lambda: served.waiting == cap + 1)
        served.go.set()
        assert set(await asyncio.gather(*calls, other)) == {("done",)}
        assert await busy_client.call(server.unique_name, "/", INTERFACE, "Slow") == ("done",)


async def test_waiting_calls_of_all_senders_are_limited(own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_server, "MAX_WAITING", 2)
    async with peers(own_bus, 4) as (server, *clients):
        served = Server(server)
        calls = [asyncio.ensure_future(one.call(server.unique_name, "/", INTERFACE, "Slow")) for one in clients[:2]]
        await until(lambda: served.waiting == 2)
        assert (await error_of(clients[2].call(server.unique_name, "/", INTERFACE, "Slow"))).name == LIMITS
        served.go.set()
        await asyncio.gather(*calls)


async def test_waiting_call_gets_an_error_when_the_server_closes(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        await server.request_name(NAME)
        call = asyncio.ensure_future(client.call(NAME, "/", INTERFACE, "Slow"))
        await until(lambda: served.waiting == 1)
        await server.close()
        error = await error_of(call)
        assert (error.name, error.message) == ("org.gpumand1.Error.ShuttingDown", "gpumand is stopping")
