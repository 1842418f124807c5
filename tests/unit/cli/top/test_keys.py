"""Bytes from a terminal are decoded into keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.top.keys import Decoder


@pytest.mark.parametrize(
    ("octets", "keys"),
    [
        (b"jq", ["j", "q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA\x1bOB", ["up", "down"]),
        (b"\x1b[1;5A", ["up"]),
        (b"\x1b[5~\x1b[6~\x1b[1~\x1b[4~", ["page-up", "page-down", "home", "end"]),
        (b"\x1b[H\x1b[F", ["home", "end"]),
        (b"\t\x1b[Z\x1b[C\x1b[D", ["tab", "back-tab", "right", "left"]),
        (b"\x1b[<0;13;6M\x1b[<0;13;6m", ["click 12 5"]),
        (b"\x1b[<64;1;1M\x1b[<65;1;1M", ["wheel-up 0 0", "wheel-down 0 0"]),
        (b"\x1b[<2;1;1M\x1b[<35;5;5M\x1b[<0;0;1M\x1b[<0;1M\x1b[<;;M\x1b[<0;-1;5M\x1b[<0;999999;5M", []),
        ("\x1b[<0;²;5Mq".encode(), ["q"]),
        (b"\x1b[15~", []),
        (b"\x1b[200~", []),
        (b"\x03\x04", ["interrupt", "interrupt"]),
        (b"\r\n", ["enter", "enter"]),
        (b"\x00\x01\x7f", []),
        (b"\x1bq", ["escape", "q"]),
        ("äß".encode(), ["ä", "ß"]),
        (b"\xffq", ["\ufffd", "q"]),
    ],
)
def test_bytes_become_keys(octets: bytes, keys: list[str]) -> None:
    assert Decoder().feed(octets) == keys


def test_escape_byte_alone_becomes_the_escape_key_after_a_pause() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1b") == []
    assert decoder.has_pending_escape
    assert decoder.flush() == ["escape"]
    assert not decoder.has_pending_escape


def test_incomplete_sequence_is_dropped() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1b[1;") == []
    assert decoder.flush() == []
    assert decoder.feed(b"q") == ["q"]


def test_endless_sequence_does_not_grow_the_buffer() -> None:
    decoder = Decoder()
    decoder.feed(b"\x1b[" + b"1" * 1000)
    assert len(decoder._pending) <= 32


@given(st.binary(max_size=40), st.data())
def test_keys_do_not_depend_on_how_bytes_are_split(octets: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(octets)))
    whole, parts = Decoder(), Decoder()
    assert whole.feed(octets) == parts.feed(octets[:cut]) + parts.feed(octets[cut:])
