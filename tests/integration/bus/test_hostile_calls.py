from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import AsyncIterator

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from gpumand.bus import call_server
from gpumand.bus.connection import BusConnection, Reply
from gpumand.testing.bus import PrivateBus
from tests.integration.bus import deaf_client
from tests.integration.bus.adapter import INTERFACE, Server, error_of, peers
from tests.waiting import until

BODIES: list[tuple[str, list[object]]] = [
    ("", []),
    ("s", ["x" * 200_000]),
    ("as", [["x" * 1000] * 200]),
    ("ay", [b"\0" * 200_000]),
    ("v", [Variant("v", Variant("v", Variant("s", "deep")))]),
    ("a{sv}", [{str(number): Variant("u", number) for number in range(1000)}]),
    ("(((((s)))))", [[[[[["x"]]]]]]),
    ("aaaaaas", [[[[[[["x"]]]]]]]),
    ("d", [float("nan")]),
    ("ogs", ["/o", "a{sv}", ""]),
    ("xtnqiuby", [-1, 2**64 - 1, -1, 65535, -1, 2**32 - 1, True, 255]),
]


@pytest.fixture
async def own_bus() -> AsyncIterator[PrivateBus]:
    async with PrivateBus() as running:
        yield running


async def assert_serves(server: BusConnection, own_bus: PrivateBus) -> None:
    """Check that the server still answers a new client."""
    async with peers(own_bus, 1) as (other,):
        assert await other.call(server.unique_name, "/", INTERFACE, "Echo", "s", ("alive",)) == ("alive",)


async def test_descriptor_index_without_descriptor_is_refused(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        for signature, body in (("h", [0]), ("ah", [[3]]), ("a{sh}", [{"x": 5}])):
            error = await error_of(client.call(server.unique_name, "/", INTERFACE, "Echo", signature, body))
            assert error.name == "org.freedesktop.DBus.Error.InvalidArgs"
        assert served.calls == []


async def test_unsolicited_signals_and_replies_are_ignored(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 1) as (server,):
        Server(server)
        hostile = await MessageBus(bus_address=own_bus.address).connect()
        for serial in range(1, 50):
            kind = MessageType.METHOD_RETURN if serial % 2 else MessageType.ERROR
            name = None if serial % 2 else "org.example.Error"
            await hostile.send(
                Message(message_type=kind, destination=server.unique_name, reply_serial=serial, error_name=name)
            )
            await hostile.send(
                Message(
                    message_type=MessageType.SIGNAL,
                    destination=server.unique_name,
                    path="/org/freedesktop/DBus",
                    interface="org.freedesktop.DBus",
                    member="NameOwnerChanged",
                    signature="h" if serial % 3 else "u",
                    body=[serial],
                )
            )
        await assert_serves(server, own_bus)
        hostile.disconnect()
        await hostile.wait_for_disconnect()


async def test_calls_with_any_flags_are_accepted(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        for octet in range(256):
            call = Message(server.unique_name, "/", INTERFACE, "Echo", signature="s", body=["x"], serial=1000 + octet)
            octets = bytearray(call._marshall(False))
            octets[2] = octet
            client._send_queue._sock.sendall(octets)
        await until(lambda: len(served.calls) == 256)
        assert [call.interactive for call in served.calls] == [bool(octet & 4) for octet in range(256)]
        await assert_serves(server, own_bus)


@pytest.mark.parametrize("member", ["Echo", "Broken", "Nonsense"])
async def test_unusual_bodies_are_answered(own_bus: PrivateBus, member: str) -> None:
    async with peers(own_bus, 2) as (server, client):
        Server(server)
        for signature, body in BODIES:
            call = client.call(server.unique_name, "/", INTERFACE, member, signature, body)
            if member == "Echo":
                await call
            else:
                assert (await error_of(call)).message
        await assert_serves(server, own_bus)


OVERSIZED: list[tuple[str, list[object]]] = [
    ("s", ["x" * 16_000_000]),
    ("ay", [b"\0" * 300_000]),
    ("sa{sv}", ["tts", {str(number): Variant("u", number) for number in range(20_000)}]),
]


@pytest.mark.parametrize("member", ["Echo", "Nonsense"])
async def test_oversized_calls_are_refused_without_being_parsed(own_bus: PrivateBus, member: str) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        for signature, body in OVERSIZED:
            error = await error_of(client.call(server.unique_name, "/", INTERFACE, member, signature, body))
            assert error.name == "org.freedesktop.DBus.Error.LimitsExceeded"
            assert error.message == "the arguments of a call have at most 256 KiB"
        assert served.calls == []
        await assert_serves(server, own_bus)


async def test_oversized_call_in_big_endian_order_is_refused(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        served = Server(server)
        client._send_queue._sock.setblocking(True)
        client._send_queue._sock.sendall(big_endian_call(server.unique_name, "Echo", b"b" * 400_000, 4000))
        client._send_queue._sock.setblocking(False)
        answered = asyncio.get_running_loop().create_future()
        client._pending._waiting[4000] = (server.unique_name, answered)
        async with asyncio.timeout(30):
            reply = await answered
        assert reply.error_name == "org.freedesktop.DBus.Error.LimitsExceeded"
        assert served.calls == []


async def test_oversized_signal_is_dropped_and_an_oversized_reply_arrives(own_bus: PrivateBus) -> None:
    async with peers(own_bus, 2) as (server, client):
        received: list[int] = []
        await client.subscribe(callback=lambda signal: received.append(len(signal.body[0])), sender=server.unique_name)
        server.emit("/", INTERFACE, "S", "s", ("x" * 300_000,))
        server.emit("/", INTERFACE, "S", "s", ("x" * 3,))
        server.serve(lambda call: Reply("s", ("r" * 3_000_000,)))
        (answer,) = await client.call(server.unique_name, "/", INTERFACE, "Any")
        assert len(answer) == 3_000_000
        assert received == [3]


def big_endian_call(destination: str, member: str, content: bytes, serial: int) -> bytes:
    """A call with an argument of type ay in the byte order that dbus-fast does not write."""

    def text_field(code: int, kind: str, value: str) -> bytes:
        encoded = value.encode()
        length = bytes([len(encoded)]) if kind == "g" else len(encoded).to_bytes(4, "big")
        field = bytes([code, 1]) + kind.encode() + b"\0" + length + encoded + b"\0"
        return field + bytes(-len(field) % 8)

    fields = text_field(1, "o", "/") + text_field(2, "s", INTERFACE) + text_field(3, "s", member)
    fields += text_field(6, "s", destination) + text_field(8, "g", "ay")
    # The padding of the last field belongs to the header, not to the array of fields.
    array_bytes = len(fields) - (-len("\x08\x01g\0\x02ay\0") % 8)
    body = len(content).to_bytes(4, "big") + content
    return struct.pack(">BBBBIII", ord("B"), 1, 0, 1, len(body), serial, array_bytes) + fields + body


async def test_ten_thousand_calls_with_unread_replies_do_not_block_others(own_bus: PrivateBus, seed: int) -> None:
    async with peers(own_bus, 1) as (server,):
        served = Server(server)
        command = [sys.executable, "-m", deaf_client.__name__, own_bus.address, server.unique_name, str(seed)]
        deaf = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert deaf.stdout is not None
        assert await deaf.stdout.readline() == b"SENT\n"
        await until(lambda: len(served.calls) == deaf_client.CALLS, within_sec=30)
        assert served.waiting == call_server.MAX_WAITING_PER_SENDER
        await assert_serves(server, own_bus)
        deaf.kill()
        await deaf.communicate()
        await assert_serves(server, own_bus)
