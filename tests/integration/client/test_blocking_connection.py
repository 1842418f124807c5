from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from dbus_fast import Variant

from gpumand.bus.connection import BusConnection, IncomingCall, Reply
from gpumand.bus.connection_errors import BusError, BusLost, BusTimeout
from gpumand.client.blocking_connection import BlockingConnection, run_blocking
from gpumand.testing.bus import PrivateBus
from tests.integration.bus.adapter import INTERFACE, peers

T = TypeVar("T")

ANSWERS: list[tuple[str, tuple[Any, ...]]] = [
    ("", ()),
    ("s", ("ü",)),
    ("sa{sv}", ("id", {"mib": Variant("t", 2**60), "names": Variant("as", ["a", "b"]), "on": Variant("b", True)})),
    ("a{sv}", ({"inner": Variant("a{sv}", {"deep": Variant("aa{sv}", [{"x": Variant("i", -1)}])})},)),
    ("aa{sv}", ([{"a": Variant("(sv)", ["s", Variant("d", 0.5)])}, {}],)),
    ("a{su}ay(ss)v", ({"k": 1}, b"\0\1", ["a", "b"], Variant("as", []))),
]


async def in_thread(work: Callable[[BlockingConnection], T], bus: PrivateBus) -> T:
    """Run with a blocking connection in a thread, since the server in this test needs the event loop."""

    def run() -> T:
        connection = BlockingConnection.connect(bus.address)
        try:
            return work(connection)
        finally:
            run_blocking(connection.close())

    return await asyncio.to_thread(run)


@pytest.mark.parametrize(("signature", "body"), ANSWERS, ids=[signature for signature, _ in ANSWERS])
async def test_replies_have_the_same_plain_values_as_over_the_other_connection(
    bus: PrivateBus, signature: str, body: tuple[Any, ...]
) -> None:
    async with peers(bus, 2) as (server, client):
        server.serve(lambda call: Reply(signature, body))
        target = (server.unique_name, "/", INTERFACE, "Any")
        expected = await client.call(*target)
        assert await in_thread(lambda connection: run_blocking(connection.call(*target)), bus) == expected


async def test_arguments_and_the_flag_for_password_dialogs_arrive(bus: PrivateBus) -> None:
    async with peers(bus, 1) as (server,):
        calls: list[IncomingCall] = []

        def answer(call: IncomingCall) -> Reply:
            calls.append(call)
            return Reply()

        server.serve(answer)

        def work(connection: BlockingConnection) -> None:
            options = connection.variants({"timeout_usec": ("t", 5), "kinds": ("as", ["load"])})
            target = (server.unique_name, "/", INTERFACE, "Any")
            run_blocking(connection.call(*target, "sa{sv}", ("tts", options), interactive=True))
            run_blocking(connection.call(*target))

        await in_thread(work, bus)
        assert calls[0].body == ("tts", {"timeout_usec": Variant("t", 5), "kinds": Variant("as", ["load"])})
        assert [call.interactive for call in calls] == [True, False]


async def test_error_reply_keeps_its_name_and_message(bus: PrivateBus) -> None:
    async with peers(bus, 1) as (server,):
        target = (server.unique_name, "/", INTERFACE, "Any")
        with pytest.raises(BusError, match="no method") as caught:
            await in_thread(lambda connection: run_blocking(connection.call(*target)), bus)
        assert caught.value.name == "org.freedesktop.DBus.Error.UnknownMethod"


async def test_missing_answer_is_a_timeout(bus: PrivateBus) -> None:
    async with peers(bus, 1) as (server,):
        server.serve(lambda call: asyncio.get_running_loop().create_future())
        target = (server.unique_name, "/", INTERFACE, "Slow")
        began = time.monotonic()
        with pytest.raises(BusTimeout, match="did not answer Slow within"):
            await in_thread(lambda connection: run_blocking(connection.call(*target, timeout_sec=0.1)), bus)
        assert time.monotonic() - began >= 0.1


async def test_bus_that_goes_away_during_a_call_is_reported() -> None:
    async with PrivateBus() as own_bus:
        server = await BusConnection.connect(own_bus.address)
        called = asyncio.Event()

        def hold(call: IncomingCall) -> asyncio.Future[Reply]:
            called.set()
            return asyncio.get_running_loop().create_future()

        server.serve(hold)
        target = (server.unique_name, "/", INTERFACE, "Slow")
        call = asyncio.ensure_future(in_thread(lambda connection: run_blocking(connection.call(*target)), own_bus))
        await called.wait()
        await asyncio.to_thread(own_bus.kill)
        with pytest.raises(BusLost, match="the connection to the bus broke"):
            await call
        await server.close()


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("unix:path=/nonexistent", "No such file or directory"),
        ("nonsense", "nonsense"),
        ("tcp:host=localhost,port=1", "not supported"),
        ("", "cannot connect"),
    ],
)
def test_bus_that_cannot_be_reached_is_named_with_the_reason(address: str, reason: str) -> None:
    with pytest.raises(BusLost, match="cannot connect to the bus") as caught:
        BlockingConnection.connect(address)
    assert reason in str(caught.value)


def test_coroutine_that_suspends_is_refused() -> None:
    with pytest.raises(RuntimeError, match="needs an event loop"):
        run_blocking(asyncio.sleep(0))


def test_unreadable_socket_is_named(tmp_path: Any) -> None:
    path = tmp_path / "socket"
    path.write_text("")
    assert os.path.exists(path)
    with pytest.raises(BusLost, match="Connection refused"):
        BlockingConnection.connect(f"unix:path={path}")
