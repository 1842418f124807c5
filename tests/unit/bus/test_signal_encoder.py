from __future__ import annotations

from typing import Any

import pytest
from dbus_fast import Message, MessageType, Variant

from gpumand.bus import signal_encoder
from gpumand.bus.signal_encoder import SignalEncoder

SIGNALS: list[tuple[str, list[Any]]] = [
    ("", []),
    ("s", ["tts"]),
    ("sss", ["9f3a", "tts", "released"]),
    ("oas", ["/org/gpumand1/lease/a", ["org.gpumand1.Lease"]]),
    ("sa{sv}as", ["org.gpumand1.Manager", {"LeaseCount": Variant("u", 7), "Text": Variant("s", "a")}, ["Gone"]]),
    ("oa{sa{sv}}", ["/org/gpumand1/lease/a", {"org.gpumand1.Lease": {"Name": Variant("s", "x" * 300)}}]),
    ("ut", [1, 2**60]),
]


def by_dbus_fast(path: str, member: str, signature: str, body: list[Any], serial: int) -> bytes:
    message = Message(
        message_type=MessageType.SIGNAL,
        path=path,
        interface="org.gpumand1.Manager",
        member=member,
        signature=signature,
        body=body,
        serial=serial,
    )
    return bytes(message._marshall(False))


@pytest.mark.parametrize(("signature", "body"), SIGNALS)
def test_first_and_later_signals_equal_the_encoding_of_dbus_fast(signature: str, body: list[Any]) -> None:
    encoder = SignalEncoder()
    for serial in (1, 77, 2**32 - 1):
        encoded = encoder.encode("/org/gpumand1", "org.gpumand1.Manager", "S", signature, body, serial)
        assert encoded == by_dbus_fast("/org/gpumand1", "S", signature, body, serial)


def test_same_member_with_another_signature_gets_a_header_of_its_own() -> None:
    encoder = SignalEncoder()
    for signature, body in SIGNALS:
        encoded = encoder.encode("/a", "org.gpumand1.Manager", "S", signature, body, 5)
        assert encoded == by_dbus_fast("/a", "S", signature, body, 5)


def test_number_of_cached_headers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_encoder, "MAX_HEADERS", 3)
    encoder = SignalEncoder()
    for number in range(20):
        encoded = encoder.encode(f"/lease/{number}", "org.gpumand1.Manager", "S", "s", ["x"], number + 1)
        assert encoded == by_dbus_fast(f"/lease/{number}", "S", "s", ["x"], number + 1)
        assert len(encoder._headers) <= 3
