"""Keeps the bodies of oversized incoming messages, and signals that are not wanted, from being parsed.

dbus-fast parses every message in one piece before gpumand sees it: 14 MB of small variants block the event loop for a
second, for all clients. So its reader gets this object instead of the socket. Of a call or signal whose body is larger
than the limit, only the header is passed on, with a body length of 0, and the body is discarded as it arrives. The call
server answers such a call with LimitsExceeded.

A signal is dropped as a whole if its object is one of many of which only some are watched: it costs a tenth of one that
is parsed, and there may be hundreds of them in a second.

Replies are not limited: gpumand asked for them, and the system bus delivers no other replies (system.conf of dbus,
``send_requested_reply``).
"""

from __future__ import annotations

import asyncio
import errno
import inspect
import io
import socket
from collections.abc import Callable, Container
from struct import pack_into, unpack_from
from typing import Any

from dbus_fast import Message
from dbus_fast.aio import MessageBus
from dbus_fast.aio.message_reader import build_message_reader

MAX_BODY_BYTES = 256 * 1024
"""The largest body that is parsed: fifty times the largest call that gpumand has."""

FIXED_HEADER_BYTES = 16
BODY_LENGTH_OFFSET, FIELD_LENGTH_OFFSET = 4, 12
DISCARD_READ_BYTES = 256 * 1024
LITTLE_ENDIAN = ord("l")
TYPE_OFFSET = 1
READS_FROM_STREAM = "stream" in inspect.signature(build_message_reader).parameters
"""Whether the installed version of dbus-fast reads from a buffered stream (1.84) or from the socket."""

SIGNAL_TYPE = 4
LIMITED_TYPES = (1, SIGNAL_TYPE)
"""Method calls and signals."""

PATH_FIELD = b"\x01\x01o\x00"
"""Begins the header field with the object path: code of the field, then the signature of its value."""

MAX_HEADER_BYTES = 4096
"""Signals with a longer header are passed on."""


class Inlet:
    """Replaces the socket of dbus-fast's reader.

    Args:
        sock: the connected socket, non-blocking.
        limit_bytes: the largest body that is passed on.
    """

    def __init__(self, sock: socket.socket, limit_bytes: int = MAX_BODY_BYTES) -> None:
        self._sock = sock
        self._limit_bytes = limit_bytes
        self._pass_bytes = 0
        self._discard_bytes = 0
        self._partial_header = b""
        self._begun = 0
        self._read = 0
        self._oversized: set[int] = set()
        self._dropped_prefix = ""
        self._kept_paths: Container[str] = ()

    @classmethod
    def install(
        cls, bus: MessageBus, on_oversized: Callable[[Message], None], limit_bytes: int = MAX_BODY_BYTES
    ) -> Inlet:
        """Let a connected bus read through an inlet.

        Args:
            bus: a bus on which nothing but the replies to its own connection has arrived.
            on_oversized: called with the message, without its body, for each message over the limit.
            limit_bytes: the largest body that is passed on.
        """
        internals: Any = bus
        inlet = cls(internals._sock, limit_bytes)

        def process(message: Message) -> None:
            if inlet.is_oversized_next():
                on_oversized(message)
            else:
                internals._process_message(message)

        loop = asyncio.get_running_loop()
        loop.remove_reader(internals._fd)
        loop.add_reader(internals._fd, _build_reader(inlet, process, internals._finalize))
        return inlet

    def drop_signals(self, path_prefix: str, except_from: Container[str]) -> None:
        """Drop the signals of objects whose path begins with a prefix ("" = of none), except those of some objects."""
        self._dropped_prefix, self._kept_paths = path_prefix, except_from

    def is_oversized_next(self) -> bool:
        """Whether the body of the next message was discarded; call it once for each message, in their order."""
        self._read += 1
        if self._read not in self._oversized:
            return False
        self._oversized.discard(self._read)
        return True

    def recv(self, size: int) -> bytes:
        """Return the next bytes without oversized bodies, b"" at the end of the stream.

        Raises:
            BlockingIOError: nothing that can be passed on has arrived yet.
            OSError: the socket failed.
        """
        # A body that is discarded is read in larger pieces: each piece is one iteration of the event loop.
        received = self._sock.recv(max(size, min(self._discard_bytes, DISCARD_READ_BYTES)))
        if not received:
            return b""
        # The plain case costs one comparison: all of it belongs to a message whose first bytes were passed on already.
        if len(received) <= self._pass_bytes:
            self._pass_bytes -= len(received)
            return received
        if not self._partial_header and self._is_one_message(received):
            return received
        passed = self._filter(self._partial_header + received)
        if not passed:
            # An empty result would mean the end of the stream.
            raise BlockingIOError(errno.EAGAIN, "only a part of a header, or of an oversized body")
        return passed

    def _is_one_message(self, data: bytes) -> bool:
        """Whether data that begins with a message is that message alone, all of it, and within the limit."""
        if self._pass_bytes or self._discard_bytes or len(data) < FIXED_HEADER_BYTES or len(data) > self._limit_bytes:
            return False
        if self._dropped_prefix and data[TYPE_OFFSET] == SIGNAL_TYPE:
            return False
        order = _order(data[0])
        body_bytes, _serial, field_bytes = unpack_from(f"{order}III", data, BODY_LENGTH_OFFSET)
        if FIXED_HEADER_BYTES + field_bytes + (-field_bytes & 7) + body_bytes != len(data):
            return False
        self._begun += 1
        return True

    def _filter(self, data: bytes) -> bytes:
        self._partial_header = b""
        passed: list[bytes] = []
        position = 0
        while position < len(data):
            if self._pass_bytes:
                passed.append(data[position : position + self._pass_bytes])
                taken = len(passed[-1])
                self._pass_bytes -= taken
            elif self._discard_bytes:
                taken = min(self._discard_bytes, len(data) - position)
                self._discard_bytes -= taken
            elif len(data) - position < (needed := self._needed_bytes(data, position)):
                self._partial_header = data[position:]
                break
            elif needed > FIXED_HEADER_BYTES and self._is_unwanted(data[position : position + needed]):
                taken = needed
                self._discard_bytes = _body_bytes(data, position)
            else:
                passed.append(self._begin_message(data[position : position + FIXED_HEADER_BYTES]))
                taken = FIXED_HEADER_BYTES
            position += taken
        return b"".join(passed)

    def _needed_bytes(self, data: bytes, position: int) -> int:
        """How many bytes of a message decide what becomes of it: the whole header of a signal that may be dropped."""
        available = len(data) - position
        if available < FIXED_HEADER_BYTES or not self._dropped_prefix or data[position + TYPE_OFFSET] != SIGNAL_TYPE:
            return FIXED_HEADER_BYTES
        (field_bytes,) = unpack_from(_order(data[position]) + "I", data, position + FIELD_LENGTH_OFFSET)
        header_bytes = FIXED_HEADER_BYTES + field_bytes + (-field_bytes & 7)
        return header_bytes if header_bytes <= MAX_HEADER_BYTES else FIXED_HEADER_BYTES

    def _is_unwanted(self, header: bytes) -> bool:
        path = _path_in(header)
        return path.startswith(self._dropped_prefix) and path not in self._kept_paths

    def _begin_message(self, fixed_header: bytes) -> bytes:
        """Decide from the first bytes of a message what becomes of the rest; return those bytes to pass on."""
        order = _order(fixed_header[0])
        body_bytes, _serial, field_bytes = unpack_from(f"{order}III", fixed_header, BODY_LENGTH_OFFSET)
        self._begun += 1
        self._pass_bytes = field_bytes + (-field_bytes & 7)
        if body_bytes <= self._limit_bytes or fixed_header[TYPE_OFFSET] not in LIMITED_TYPES:
            self._pass_bytes += body_bytes
            return fixed_header
        self._oversized.add(self._begun)
        self._discard_bytes = body_bytes
        shortened = bytearray(fixed_header)
        pack_into(f"{order}I", shortened, BODY_LENGTH_OFFSET, 0)
        return bytes(shortened)


def _order(first_byte: int) -> str:
    """The byte order of a message, as the module struct writes it."""
    return "<" if first_byte == LITTLE_ENDIAN else ">"


def _body_bytes(data: bytes, position: int) -> int:
    (size,) = unpack_from(_order(data[position]) + "I", data, position + BODY_LENGTH_OFFSET)
    return int(size)


def _path_in(header: bytes) -> str:
    """The object path in the header of a message; "" if there is none. Fields begin at multiples of 8."""
    at = header.find(PATH_FIELD, FIXED_HEADER_BYTES)
    while at % 8 and at != -1:
        at = header.find(PATH_FIELD, at + 1)
    if at == -1 or at + 8 > len(header):
        return ""
    (size,) = unpack_from(_order(header[0]) + "I", header, at + len(PATH_FIELD))
    return header[at + 8 : at + 8 + size].decode(errors="replace")


class _RawInlet(io.RawIOBase):
    """The inlet as a raw stream, which the reader of dbus-fast 1.84 requires instead of a socket."""

    def __init__(self, inlet: Inlet) -> None:
        super().__init__()
        self._inlet = inlet
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if not self._rest:
            try:
                self._rest = self._inlet.recv(len(buffer))
            except BlockingIOError:
                return None
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _build_reader(
    inlet: Inlet, process: Callable[[Message], None], finalize: Callable[[Exception | None], None]
) -> Callable[[], None]:
    build: Any = build_message_reader
    arguments: tuple[Any, ...] = (inlet, process, finalize, False)
    if READS_FROM_STREAM:
        arguments = (io.BufferedReader(_RawInlet(inlet)), None, process, finalize)
    reader: Callable[[], None] = build(*arguments)
    return reader
