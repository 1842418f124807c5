from __future__ import annotations

from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant

from gpumand.bus import utf8_text
from gpumand.bus.utf8_text import Utf8Text, with_byte_lengths


@pytest.fixture(autouse=True)
def _as_under_debian_12(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert text as for dbus-fast 1.84. Later versions marshal the converted text correctly as well."""
    monkeypatch.setattr(utf8_text, "COUNTS_CHARACTERS", True)


def marshalled(signature: str, *body: Any) -> bytes:
    message = Message(
        message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", signature=signature, body=list(body)
    )
    return bytes(message._marshall(False))


def test_length_is_the_size_in_bytes_and_the_text_is_equal() -> None:
    text = with_byte_lengths("übergröße")
    assert len(text) == len("übergröße".encode()) == 12
    assert text == "übergröße"
    assert {text: 1}["übergröße"] == 1
    assert text.encode() == "übergröße".encode()


def test_ascii_text_and_other_values_are_unchanged() -> None:
    plain = Variant("s", "ascii")
    assert with_byte_lengths(plain) is plain
    assert type(with_byte_lengths("ascii")) is str
    assert with_byte_lengths([1, True, b"\xfc", 1.5, None]) == [1, True, b"\xfc", 1.5, None]


def test_nested_text_is_converted() -> None:
    deep = with_byte_lengths({"ä": Variant("a{sv}", {"k": Variant("as", ["ö", "o"])}), "l": [("ü",)]})
    assert [type(key) for key in deep] == [Utf8Text, str]
    inner = deep["ä"].value["k"]
    assert (inner.signature, [type(item) for item in inner.value]) == ("as", [Utf8Text, str])
    assert type(deep["l"][0][0]) is Utf8Text


@pytest.mark.parametrize("text", ["ü", "…", "🙂", "a" * 100 + "é", "日本語"])
def test_marshalled_length_is_the_number_of_bytes(text: str) -> None:
    """dbus-fast 1.84 (Debian 12) writes the length in characters, which shifts all bytes that follow."""
    octets = text.encode()
    on_the_bus = len(octets).to_bytes(4, "little") + octets + b"\0"
    assert marshalled("s", with_byte_lengths(text)).endswith(on_the_bus)
    assert on_the_bus in marshalled("a{sv}s", with_byte_lengths({"k": Variant("s", text)}), "end")
