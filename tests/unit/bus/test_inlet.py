from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from struct import pack

import pytest
from dbus_fast import Message, MessageType

from gpumand.bus.inlet import Inlet

LIMIT_BYTES = 1000


@pytest.fixture
def sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, peer = socket.socketpair()
    ours.setblocking(False)
    for one in (ours, peer):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    yield ours, peer
    ours.close()
    peer.close()


def call(text: str, serial: int) -> bytes:
    message = Message("org.gpumand1", "/a", "org.gpumand1.Manager", "M", signature="s", body=[text], serial=serial)
    return bytes(message._marshall(False))


def reply(text: str, serial: int) -> bytes:
    message = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=[text], serial=serial)
    return bytes(message._marshall(False))


def without_body(message: bytes) -> bytes:
    """The message as the inlet passes it on: a body length of 0, and no body."""
    body_bytes = int.from_bytes(message[4:8], "little")
    return message[:4] + bytes(4) + message[8 : len(message) - body_bytes]


def read_available(inlet: Inlet) -> bytes:
    parts: list[bytes] = []
    for _ in range(100_000):
        try:
            part = inlet.recv(8192)
        except BlockingIOError as error:
            if "oversized" not in str(error):
                return b"".join(parts)
            continue
        if not part:
            return b"".join(parts)
        parts.append(part)
    raise AssertionError("the inlet never ran dry")


@pytest.mark.parametrize("piece_bytes", [1, 3, 15, 16, 17, 100, 5000])
def test_only_bodies_over_the_limit_are_cut_however_the_bytes_arrive(
    sockets: tuple[socket.socket, socket.socket], piece_bytes: int
) -> None:
    ours, peer = sockets
    inlet = Inlet(ours, LIMIT_BYTES)
    messages = [call("small", 1), call("x" * 5000, 2), call("y" * 990, 3), reply("z" * 4000, 4), call("w" * 2000, 5)]
    stream = b"".join(messages)
    passed = b""
    for position in range(0, len(stream), piece_bytes):
        peer.sendall(stream[position : position + piece_bytes])
        passed += read_available(inlet)
    assert passed == messages[0] + without_body(messages[1]) + messages[2] + messages[3] + without_body(messages[4])
    assert [inlet.is_oversized_next() for _ in messages] == [False, True, False, False, True]


def test_any_split_of_random_messages_gives_the_same_bytes(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = sockets
    seed = random.SystemRandom().randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    inlet = Inlet(ours, LIMIT_BYTES)
    messages = [call("x" * chance.choice((0, 10, 900, 1100, 7000)), number + 1) for number in range(60)]
    is_cut = [int.from_bytes(message[4:8], "little") > LIMIT_BYTES for message in messages]
    stream, passed = b"".join(messages), b""
    while stream:
        size = chance.choice((1, 7, 16, 200, 4096))
        peer.sendall(stream[:size])
        stream = stream[size:]
        passed += read_available(inlet)
    expected = [without_body(one) if cut else one for one, cut in zip(messages, is_cut, strict=True)]
    assert passed == b"".join(expected)
    assert [inlet.is_oversized_next() for _ in messages] == is_cut


def test_big_endian_messages_are_cut_too(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = sockets
    inlet = Inlet(ours, LIMIT_BYTES)
    head = pack(">BBBBIII", ord("B"), 1, 0, 1, 70_000, 9, 5) + b"field" + bytes(3)
    peer.sendall(head + b"b" * 70_000 + call("after", 2))
    assert read_available(inlet) == head[:4] + bytes(4) + head[8:] + call("after", 2)


def test_end_of_the_stream_is_passed_on(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = sockets
    inlet = Inlet(ours, LIMIT_BYTES)
    peer.sendall(call("x" * 5000, 1)[:3000])
    peer.close()
    assert read_available(inlet)
    assert inlet.recv(100) == b""


def test_messages_that_arrive_one_by_one_are_counted(sockets: tuple[socket.socket, socket.socket]) -> None:
    inlet, peer = Inlet(sockets[0], LIMIT_BYTES), sockets[1]
    for serial, text in enumerate(("a", "b" * 2000, "c", "d" * 900, "e" * 2000), 1):
        message = call(text, serial)
        peer.send(message)
        is_oversized = len(text) > LIMIT_BYTES
        assert read_available(inlet) == (without_body(message) if is_oversized else message)
        assert inlet.is_oversized_next() is is_oversized


def changed_unit(path: str, text: str, serial: int, member: str = "Changed") -> bytes:
    message = Message(
        message_type=MessageType.SIGNAL,
        path=path,
        interface="org.example.Unit",
        member=member,
        signature="s",
        body=[text],
        serial=serial,
    )
    return bytes(message._marshall(False))


@pytest.mark.parametrize("piece_bytes", [1, 3, 15, 16, 17, 100, 5000])
def test_unwanted_signals_are_dropped_however_the_bytes_arrive(
    sockets: tuple[socket.socket, socket.socket], piece_bytes: int
) -> None:
    ours, peer = sockets
    inlet = Inlet(ours, LIMIT_BYTES)
    wanted = {"/unit/b"}
    inlet.drop_signals("/unit/", wanted)
    messages = [
        changed_unit("/unit/a", "dropped", 1),
        changed_unit("/unit/b", "kept", 2),
        call("a call is kept", 3),
        changed_unit("/unit/a", "dropped" * 400, 4),
        changed_unit("/unit", "not below the prefix", 5),
        changed_unit("/other", "/unit/a", 6),
        call("w" * 2000, 7),
        changed_unit("/unit/bb", "dropped", 8, "M" * 80),
        reply("a reply is kept", 9),
    ]
    stream = b"".join(messages)
    passed = b""
    for position in range(0, len(stream), piece_bytes):
        peer.sendall(stream[position : position + piece_bytes])
        passed += read_available(inlet)
    kept = [messages[1], messages[2], messages[4], messages[5], without_body(messages[6]), messages[8]]
    assert passed == b"".join(kept)
    # Dropped messages do not count, since the reader never sees them.
    assert [inlet.is_oversized_next() for _ in kept] == [False, False, False, False, True, False]


def test_signals_are_dropped_by_the_paths_that_are_wanted_at_that_time(
    sockets: tuple[socket.socket, socket.socket],
) -> None:
    ours, peer = sockets
    inlet = Inlet(ours, LIMIT_BYTES)
    wanted: set[str] = set()
    inlet.drop_signals("/unit/", wanted)
    one = changed_unit("/unit/a", "text", 1)
    peer.sendall(one)
    assert read_available(inlet) == b""
    wanted.add("/unit/a")
    peer.sendall(one)
    assert read_available(inlet) == one
    wanted.clear()
    inlet.drop_signals("", ())
    peer.sendall(one)
    assert read_available(inlet) == one


def test_path_of_a_big_endian_signal_is_read(sockets: tuple[socket.socket, socket.socket]) -> None:
    ours, peer = sockets
    inlet = Inlet(ours, LIMIT_BYTES)
    inlet.drop_signals("/unit/", ())
    fields = pack(">BBsxI", 1, 1, b"o", 7) + b"/unit/a\x00"
    header = pack(">cBBBIII", b"B", 4, 0, 1, 4, 1, len(fields)) + fields + bytes(-len(fields) % 8)
    after = call("kept", 2)
    peer.sendall(header + b"body" + after)
    assert read_available(inlet) == after
