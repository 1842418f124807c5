from __future__ import annotations

from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant

from gpumand.bus import utf8_text
from gpumand.bus.utf8_text import Utf8Text, sized


@pytest.fixture(autouse=True)
def _as_under_debian_12(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later versions are right with the replaced text as well, so the cases hold under all of them."""
    monkeypatch.setattr(utf8_text, "COUNTS_CHARACTERS", True)


def marshalled(signature: str, *body: Any) -> bytes:
    message = Message(
        message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", signature=signature, body=list(body)
    )
    return bytes(message._marshall(False))


def test_text_says_its_size_in_bytes_and_is_the_same_text() -> None:
    text = sized("übergröße")
    assert len(text) == len("übergröße".encode()) == 12
    assert text == "übergröße"
    assert {text: 1}["übergröße"] == 1
    assert text.encode() == "übergröße".encode()


def test_ascii_and_other_values_are_left_as_they_are() -> None:
    plain = Variant("s", "ascii")
    assert sized(plain) is plain
    assert type(sized("ascii")) is str
    assert sized([1, True, b"\xfc", 1.5, None]) == [1, True, b"\xfc", 1.5, None]


def test_text_is_found_at_any_depth() -> None:
    deep = sized({"ä": Variant("a{sv}", {"k": Variant("as", ["ö", "o"])}), "l": [("ü",)]})
    assert [type(key) for key in deep] == [Utf8Text, str]
    inner = deep["ä"].value["k"]
    assert (inner.signature, [type(item) for item in inner.value]) == ("as", [Utf8Text, str])
    assert type(deep["l"][0][0]) is Utf8Text


@pytest.mark.parametrize("text", ["ü", "…", "🙂", "a" * 100 + "é", "日本語"])
def test_size_that_goes_onto_the_bus_is_that_of_the_bytes(text: str) -> None:
    """The case that breaks with the binding of Debian 12: a length in characters shifts everything behind it."""
    octets = text.encode()
    on_the_bus = len(octets).to_bytes(4, "little") + octets + b"\0"
    assert marshalled("s", sized(text)).endswith(on_the_bus)
    assert on_the_bus in marshalled("a{sv}s", sized({"k": Variant("s", text)}), "end")
