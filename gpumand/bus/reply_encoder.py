"""Encodes the replies to method calls as bytes, with the header for each caller built only once.

As with signals (see ``signal_encoder``), the header is most of the cost of a short message in dbus-fast. The header of
a reply depends on its receiver and its signature, but for three numbers.
``tests/unit/bus/test_reply_encoder.py`` compares replies with dbus-fast's own encoding.
"""

from __future__ import annotations

from struct import pack_into
from typing import Any

from dbus_fast import Message, MessageType

from gpumand.bus.signal_encoder import BODY_LENGTH_OFFSET, encode_body
from gpumand.bus.utf8_text import with_byte_lengths

MAX_HEADERS = 1024
"""Headers kept: clients connect and leave without limit."""

MARK = 0xFEFEFEFE
"""A reply serial whose bytes occur nowhere else in a header, all of which is ASCII text and small numbers."""


class ReplyEncoder:
    """Encodes successful replies."""

    def __init__(self) -> None:
        self._headers: dict[tuple[str | None, str], tuple[bytearray, int]] = {}

    def encode(
        self, call: Message, signature: str, body: list[Any], serial: int, content: bytes | None = None
    ) -> bytes:
        """Return the bytes of a reply.

        Args:
            call: the call that is answered.
            signature: signature of the body.
            body: the values.
            serial: serial number of the reply.
            content: the body as bytes, if it is encoded already; ``body`` is then any body of the signature.

        Raises:
            Exception: errors of dbus-fast for a body that does not fit its signature.
        """
        if content is None:
            content = encode_body(signature, body) if signature else b""
        key = (call.sender, signature)
        known = self._headers.get(key)
        if known is None:
            known = self._build_header(key, body)
        header, reply_serial_offset = known
        pack_into("<II", header, BODY_LENGTH_OFFSET, len(content), serial)
        pack_into("<I", header, reply_serial_offset, call.serial)
        return bytes(header) + content

    def _build_header(self, key: tuple[str | None, str], body: list[Any]) -> tuple[bytearray, int]:
        destination, signature = key
        body = with_byte_lengths(body)
        message = Message(
            message_type=MessageType.METHOD_RETURN,
            reply_serial=MARK,
            destination=destination,
            signature=signature,
            body=body,
            serial=1,
        )
        encoded = message._marshall(False)
        header = bytearray(encoded[: len(encoded) - len(encode_body(signature, body))])
        if len(self._headers) >= MAX_HEADERS:
            self._headers.clear()
        known = self._headers[key] = header, header.index(MARK.to_bytes(4, "little"))
        return known
