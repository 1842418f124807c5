from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpumand.bus import connecting
from gpumand.bus.connection import BusConnection, BusLost, BusTimeout, Reply, Signal
from gpumand.bus.names import DBUS, DBUS_PATH
from gpumand.testing.bus import PrivateBus
from tests.integration.bus.adapter import INTERFACE, NAME, Server, error_of, peers
from tests.waiting import until


@pytest.fixture
async def own_bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as running:
        yield running


async def test_call_by_name_returns_unwrapped_values(own_bus: PrivateBus) -> None:
    from dbus_fast import Variant

    async with peers(own_bus, 2) as (server, client):
        Server(server)
        await server.request_name(NAME)
        body = ([1, "s"], {"k": Variant("av", [Variant("(u)", [7])])})
        assert await client.call(NAME, "/p", INTERFACE, "Echo", "(us)a{sv}", body) == ([1, "s"], {"k": [[7]]})


async def test_handler_receives_sender_and_arguments(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        await client.call(server.unique_name, "/p", INTERFACE, "Echo", "u", (1,), interactive=True)
        await client.call(server.unique_name, "/", "", "Echo")
    first, second = served.calls
    assert (first.sender, first.path, first.interface, first.signature) == (client.unique_name, "/p", INTERFACE, "u")
    assert (first.body, first.interactive) == ((1,), True)
    assert (second.interface, second.body, second.interactive) == ("", (), False)


async def test_missing_reply_times_out_and_a_late_reply_is_ignored(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        with pytest.raises(BusTimeout, match="did not answer Slow within"):
            await client.call(server.unique_name, "/p", INTERFACE, "Slow", timeout_sec=0.05)
        served.go.set()
        assert await client.call(server.unique_name, "/p", INTERFACE, "Echo", "s", ("still here",)) == ("still here",)


async def test_call_to_absent_peer_fails(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 1) as (client,):
        error = await error_of(client.call("org.example.Nobody", "/p", INTERFACE, "Echo"))
        assert error.name == "org.freedesktop.DBus.Error.ServiceUnknown"


async def test_call_fails_when_the_peer_leaves(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        call = asyncio.ensure_future(client.call(server.unique_name, "/p", INTERFACE, "Slow"))
        await until(lambda: served.waiting == 1)
        await server.close()
        assert (await error_of(call)).name == "org.gpumand1.Error.ShuttingDown"


async def release_name(owner: BusConnection) -> None:
    await owner.call(DBUS, DBUS_PATH, DBUS, "ReleaseName", "s", (NAME,))


async def test_owned_name_cannot_be_requested(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (first, second):
        await first.request_name(NAME)
        await first.request_name(NAME)
        with pytest.raises(BusLost, match="owned by another process"):
            await second.request_name(NAME)
        await release_name(first)
        await second.request_name(NAME)


async def test_name_forbidden_by_policy_cannot_be_requested(tmp_path: Path) -> None:
    config = tmp_path / "bus.conf"
    config.write_text(
        f"<busconfig><type>session</type><listen>unix:path={tmp_path}/bus</listen><auth>EXTERNAL</auth>"
        '<policy context="default"><allow user="*"/><allow send_destination="*"/><allow receive_sender="*"/>'
        '<deny own="*"/></policy></busconfig>'
    )
    async with PrivateBus(config) as bus, peers(bus, 1) as (one,):
        with pytest.raises(BusLost, match=f"cannot own {NAME}"):
            await one.request_name(NAME)


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "nonsense", "carrier-pigeon:", ""])
async def test_connect_error_is_one_line(address: str) -> None:
    with pytest.raises(BusLost, match=r"^cannot connect to the bus at [^\n]*$"):
        await BusConnection.connect(address)
    gc.collect()  # dbus-fast 1.84 and 2.44 leave the socket open, which would be a warning here, and so an error


@pytest.mark.parametrize("answer", [b"", b"REJECTED\r\n", b"OK 0123456789abcdef0123456789abcdef\r\n"])
async def test_failed_authentication_closes_the_socket(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "CONNECT_TIMEOUT_SEC", 0.2)
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        ended = pool.submit(_answer_once, listener, answer)
        with pytest.raises(BusLost, match=r"^cannot connect to the bus at [^\n]*$"):
            await BusConnection.connect(f"unix:path={tmp_path}/bus")
        assert await asyncio.to_thread(ended.result, 30), "the connection is still open"
    gc.collect()


def _answer_once(listener: socket.socket, answer: bytes) -> bool:
    """Answer the first data of a client and nothing more; return once the client has closed the connection."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(30)
        connection.recv(1024)
        connection.sendall(answer)
        while connection.recv(1024):
            pass
    return True


async def test_names_of_buses_are_resolved(own_bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", own_bus.address)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nowhere/session")
    connection = await BusConnection.connect("system")
    await connection.close()
    with pytest.raises(BusLost, match="/nowhere/session"):
        await BusConnection.connect("session")
    gc.collect()


async def test_all_waiting_calls_fail_when_the_bus_dies(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        call = asyncio.ensure_future(client.call(server.unique_name, "/p", INTERFACE, "Slow"))
        await until(lambda: served.waiting == 1)
        await asyncio.to_thread(own_bus.kill)
        with pytest.raises(BusLost):
            await call
        await client.wait_lost()
        await server.wait_lost()
        await client.flush()
        assert client.lost_reason
        await until(lambda: served.cancelled == 1)
        with pytest.raises(BusLost):
            await client.call(NAME, "/p", INTERFACE, "Echo")
        with pytest.raises(BusLost):
            client.emit("/p", INTERFACE, "S", "", ())
        with pytest.raises(BusLost):
            await client.subscribe(callback=lambda signal: None, member="X")


async def test_connection_answers_the_peer_interface(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        peer = "org.freedesktop.DBus.Peer"
        (of_bus,) = await client.call(DBUS, DBUS_PATH, peer, "GetMachineId")
        assert await client.call(server.unique_name, "/", peer, "Ping") == ()
        for _ in range(2):
            assert await client.call(server.unique_name, "/any", peer, "GetMachineId") == (of_bus,)
        error = await error_of(client.call(server.unique_name, "/", peer, "Nonsense"))
        assert error.name == "org.freedesktop.DBus.Error.UnknownMethod"
        assert served.calls == []


async def test_other_standard_interfaces_reach_the_handler(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        server.serve(lambda call: Reply("s", (call.interface,)))
        for interface in ("Introspectable", "Properties", "ObjectManager"):
            full = f"org.freedesktop.DBus.{interface}"
            member = {"Introspectable": "Introspect", "ObjectManager": "GetManagedObjects"}.get(interface, "GetAll")
            assert await client.call(server.unique_name, "/", full, member) == (full,)


async def test_connection_without_handler_refuses_calls(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (silent, client):
        error = await error_of(
            client.call(silent.unique_name, "/", "org.freedesktop.DBus.Introspectable", "Introspect")
        )
        assert error.name == "org.freedesktop.DBus.Error.UnknownMethod"


async def test_signals_arrive_in_order_at_matching_subscriptions(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (sender, client):
        wanted: list[Signal] = []
        others: list[Signal] = []
        await client.subscribe(callback=wanted.append, sender=sender.unique_name, path_namespace="/a", arg0="x")
        await client.subscribe(callback=others.append, sender=sender.unique_name, member="B")
        for number in range(500):
            sender.emit("/a/b", INTERFACE, "A", "su", ("x", number))
        sender.emit("/a", INTERFACE, "A", "s", ("y",))
        sender.emit("/b", INTERFACE, "B", "s", ("x",))
        await until(lambda: bool(others))
        assert [signal.body[1] for signal in wanted] == list(range(500))
        assert [(signal.sender, signal.path, signal.member) for signal in others] == [(sender.unique_name, "/b", "B")]


async def test_failing_callback_does_not_affect_others(own_bus: PrivateBus, caplog: pytest.LogCaptureFixture) -> None:
    async with peers(own_bus, 2) as (sender, client):
        received: list[Signal] = []

        def fails(signal: Signal) -> None:
            raise ZeroDivisionError

        await client.subscribe(callback=fails, member="S")
        await client.subscribe(callback=received.append, member="S")
        sender.emit("/a", INTERFACE, "S", "", ())
        await until(lambda: bool(received))
    assert "a callback for the signal org.example.Face.S failed" in caplog.text


async def test_signal_not_sent_by_the_names_owner_is_ignored(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 3) as (owner, forger, client):
        received: list[Signal] = []
        await owner.request_name(NAME)
        await client.subscribe(callback=received.append, sender=NAME, member="S")
        forger.emit("/a", INTERFACE, "S", "s", ("forged",), destination=client.unique_name)
        await forger.flush()
        await forger.call(DBUS, DBUS_PATH, DBUS, "GetId")
        owner.emit("/a", INTERFACE, "S", "s", ("true",))
        await until(lambda: bool(received))
        assert [signal.body for signal in received] == [("true",)]


async def test_forged_signal_of_the_bus_is_ignored(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (forger, client):
        received: list[Signal] = []
        await client.subscribe(callback=received.append, sender=DBUS, member="NameOwnerChanged", arg0=NAME)
        forger.emit(DBUS_PATH, DBUS, "NameOwnerChanged", "sss", (NAME, ":1.1", ""), destination=client.unique_name)
        await forger.request_name(NAME)
        await until(lambda: bool(received))
        assert [signal.body for signal in received] == [(NAME, "", forger.unique_name)]


async def test_subscription_follows_the_owner_of_a_name(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 3) as (first, second, client):
        received: list[str] = []
        await client.subscribe(callback=lambda signal: received.append(signal.body[0]), sender=NAME, member="S")
        for number, owner in enumerate((first, second, first)):
            await owner.request_name(NAME)
            owner.emit("/a", INTERFACE, "S", "s", (f"owner {number}",))
            await release_name(owner)
            owner.emit("/a", INTERFACE, "S", "s", ("former owner",), destination=client.unique_name)
        await until(lambda: len(received) == 3)
        assert received == ["owner 0", "owner 1", "owner 2"]


async def test_match_rule_is_shared_and_removed_with_its_last_subscription(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (sender, client):
        received: list[str] = []
        rule = {"sender": sender.unique_name, "member": "S"}
        first, second, both = await asyncio.gather(
            client.subscribe(callback=lambda signal: received.append("first"), **rule),
            client.subscribe(callback=lambda signal: received.append("second"), **rule),
            client.subscribe(callback=lambda signal: received.append("end"), member="End"),
        )
        await first.cancel()
        await first.cancel()
        sender.emit("/a", INTERFACE, "S", "", ())
        sender.emit("/a", INTERFACE, "End", "", ())
        await until(lambda: "end" in received)
        assert received == ["second", "end"]
        await second.cancel()
        await both.cancel()
        error = await error_of(
            client.call(DBUS, DBUS_PATH, DBUS, "RemoveMatch", "s", (f"type='signal',sender='{sender.unique_name}'",))
        )
        assert error.name.endswith("MatchRuleNotFound")


async def test_cancelled_subscription_receives_no_signal_sent_before(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (sender, client):
        received: list[Signal] = []
        subscription = await client.subscribe(callback=received.append, member="S")
        ends: list[Signal] = []
        await client.subscribe(callback=ends.append, member="End")
        sender.emit("/a", INTERFACE, "S", "", ())
        sender.emit("/a", INTERFACE, "End", "", ())
        await sender.flush()
        await subscription.cancel()
        await until(lambda: bool(ends))
        assert received == []


async def test_rule_beyond_the_limit_fails_without_affecting_others(tmp_path: Path) -> None:
    config = tmp_path / "bus.conf"
    config.write_text(
        f"<busconfig><type>session</type><listen>unix:path={tmp_path}/bus</listen><auth>EXTERNAL</auth>"
        '<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>'
        '<allow receive_sender="*"/></policy>'
        '<limit name="max_match_rules_per_connection">2</limit></busconfig>'
    )
    async with PrivateBus(config) as bus, peers(bus, 2) as (sender, client):
        received: list[Signal] = []
        first = await client.subscribe(callback=received.append, member="A")
        await client.subscribe(callback=received.append, member="B")
        error = await error_of(client.subscribe(callback=received.append, member="C"))
        assert error.name == "org.freedesktop.DBus.Error.LimitsExceeded"
        await first.cancel()
        await client.subscribe(callback=received.append, member="C")
        sender.emit("/a", INTERFACE, "C", "", ())
        await until(lambda: bool(received))
