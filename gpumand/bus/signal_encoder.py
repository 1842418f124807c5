"""Encodes broadcast signals as bytes, with the header of each kind of signal built only once.

A header depends on path, interface, member and signature only, but for the length of the body and the serial number.
Building it is two thirds of the cost of a signal in dbus-fast, and an Acquire with its Release sends eight signals.
``tests/unit/bus/test_signal_encoder.py`` compares every kind of signal with dbus-fast's own encoding.
"""

from __future__ import annotations

from struct import pack_into
from typing import Any

from dbus_fast import Message, MessageType

# Private in name only: the module exists in 1.84 to 5.x, and dbus-fast has no other way to encode a body alone.
from dbus_fast._private.marshaller import Marshaller

from gpumand.bus.utf8_text import with_byte_lengths

MAX_HEADERS = 1024
"""Headers kept: signals of many objects, such as leases, would otherwise make the cache grow without limit."""

BODY_LENGTH_OFFSET = 4
"""Offset of the two 32-bit numbers that differ from signal to signal: length of the body, and serial number."""


SAMPLES: dict[str, list[Any]] = {"oa{sa{sv}}": ["/", {}], "sa{sv}as": ["", {}, []]}
"""A body for each signature whose bodies may be encoded already: dbus-fast builds a header only with a body."""


def encode_body(signature: str, body: list[Any]) -> bytes:
    """Return the bytes of a body. Raises errors of dbus-fast for one that does not fit its signature."""
    return bytes(Marshaller(signature, with_byte_lengths(body)).marshall())


class SignalEncoder:
    """Encodes signals that have no destination."""

    def __init__(self) -> None:
        self._headers: dict[tuple[str, str, str, str], bytearray] = {}

    def encode(
        self, path: str, interface: str, member: str, signature: str, body: list[Any] | bytes, serial: int
    ) -> bytes:
        """Return the bytes of a signal.

        Args:
            path, interface, member: where the signal comes from, and its name.
            signature: signature of the body.
            body: the values; or their encoding, for a signature in ``SAMPLES``.
            serial: serial number of the signal.

        Raises:
            Exception: errors of dbus-fast for a body that does not fit its signature.
        """
        content = body if isinstance(body, bytes) else encode_body(signature, body)
        key = (path, interface, member, signature)
        header = self._headers.get(key)
        if header is None:
            header = self._build_header(key, SAMPLES[signature] if isinstance(body, bytes) else body)
        pack_into("<II", header, BODY_LENGTH_OFFSET, len(content), serial)
        return bytes(header) + content

    def _build_header(self, key: tuple[str, str, str, str], body: list[Any]) -> bytearray:
        path, interface, member, signature = key
        body = with_byte_lengths(body)
        message = Message(
            message_type=MessageType.SIGNAL,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=body,
            serial=1,
        )
        encoded = message._marshall(False)
        if len(self._headers) >= MAX_HEADERS:
            self._headers.clear()
        header = self._headers[key] = bytearray(encoded[: len(encoded) - len(encode_body(signature, body))])
        return header
