"""Keys out of bytes."""

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


def test_an_escape_alone_is_the_key_once_nothing_follows() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1b") == []
    assert decoder.waits
    assert decoder.flush() == ["escape"]
    assert not decoder.waits


def test_a_sequence_that_is_cut_off_is_no_key() -> None:
    decoder = Decoder()
    assert decoder.feed(b"\x1b[1;") == []
    assert decoder.flush() == []
    assert decoder.feed(b"q") == ["q"]


def test_a_sequence_without_end_does_not_grow_for_ever() -> None:
    decoder = Decoder()
    decoder.feed(b"\x1b[" + b"1" * 1000)
    assert len(decoder._pending) <= 32


@given(st.binary(max_size=40), st.data())
def test_it_does_not_matter_how_bytes_are_cut(octets: bytes, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(octets)))
    whole, parts = Decoder(), Decoder()
    assert whole.feed(octets) == parts.feed(octets[:cut]) + parts.feed(octets[cut:])
