from __future__ import annotations

from typing import Any

import pytest
from dbus_fast import Message, Variant

from gpumand.bus import reply_encoder
from gpumand.bus.reply_encoder import MARK, ReplyEncoder
from gpumand.bus.utf8_text import with_byte_lengths

REPLIES: list[tuple[str, list[Any]]] = [
    ("", []),
    ("t", [2**60]),
    ("sa{sv}", ["9f3a", {"consumer": Variant("s", "tts"), "waited_usec": Variant("t", MARK)}]),
    ("aa{sv}", [[{"detail": Variant("s", "x" * 300)}, {}]]),
    ("s", ["þþþþ" * 40]),
]


def call(sender: str, serial: int) -> Message:
    return Message("org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager", "Acquire", sender=sender, serial=serial)


@pytest.mark.parametrize(("signature", "body"), REPLIES)
def test_first_and_later_replies_equal_the_encoding_of_dbus_fast(signature: str, body: list[Any]) -> None:
    encoder = ReplyEncoder()
    for sender in (":1.7", ":1.4294967295", ":1.7"):
        for serial in (1, 99, MARK, 2**32 - 1):
            answered = call(sender, serial)
            plain = Message.new_method_return(answered, signature, with_byte_lengths(body))
            plain.serial = serial ^ 3
            assert encoder.encode(answered, signature, body, serial ^ 3) == bytes(plain._marshall(False))


def test_number_of_cached_headers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_encoder, "MAX_HEADERS", 3)
    encoder = ReplyEncoder()
    for number in range(20):
        answered = call(f":1.{number}", number + 1)
        plain = Message.new_method_return(answered, "s", ["x"])
        plain.serial = number + 5
        assert encoder.encode(answered, "s", ["x"], number + 5) == bytes(plain._marshall(False))
        assert len(encoder._headers) <= 3
