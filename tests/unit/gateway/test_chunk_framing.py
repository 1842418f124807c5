"""Chunked bodies that parsers read in different ways are refused before any of them sees them."""

from __future__ import annotations

import pytest

from gpumand.gateway.chunk_framing import MAX_LINE_BYTES, MAX_TRAILER_BYTES, ChunkFraming

GOOD = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"00000005\r\nhello\r\n000\r\n\r\n",
    b'a;name=value;quoted="a b"\r\n\r\n0\r\n\r\n \r\n\r\n0;x\r\n\r\n',
    b"A\r\n0123456789\r\n0\r\nDigest: a\r\nX-B:\t\xe4\r\n\r\n",
]
BAD = {
    "line feed after the size": b"5\nhello\r\n0\r\n\r\n",
    "line feed after the data": b"5\r\nhello\n0\r\n\r\n",
    "line feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "carriage return in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "NUL in an extension": b"5;a\0b\r\nhello\r\n0\r\n\r\n",
    "line feed at the end": b"0\r\n\n",
    "line feed in the trailer": b"0\r\nX: a\n\r\n",
    "prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "negative": b"-5\r\nhello\r\n0\r\n\r\n",
    "huge": b"FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n",
    "overflow to 5": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "only an extension": b";a\r\nhello\r\n0\r\n\r\n",
    "space before the size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space after the size": b"5 \r\nhello\r\n0\r\n\r\n",
    "space before an extension": b"5 ;a\r\nhello\r\n0\r\n\r\n",
    "no digit": b"g\r\nhello\r\n0\r\n\r\n",
    "data longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "data shorter than its size": b"5\r\nhell\r\n0\r\n\r\n",
    "trailer without a name": b"0\r\n: a\r\n\r\n",
    "trailer with a space before the colon": b"0\r\nX : a\r\n\r\n",
    "folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "request in place of a trailer": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "endless size": b"0" * 2 * MAX_LINE_BYTES,
    "endless extension": b"5;" + b"a" * 2 * MAX_LINE_BYTES,
    "endless trailer": b"0\r\n" + b"X: a\r\n" * MAX_TRAILER_BYTES,
}


def fed(body: bytes, size: int) -> tuple[ChunkFraming, bytes]:
    """Feed a body in parts of a size; returns what may be parsed of it too."""
    framing, valid = ChunkFraming(), b""
    for at in range(0, len(body), size):
        valid += framing.feed(body[at : at + size])
    return framing, valid


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("body", GOOD)
def test_valid_bodies_pass_unchanged(body: bytes, size: int) -> None:
    framing, valid = fed(body, size)

    assert (framing.is_broken, framing.is_complete) == (False, True)
    assert valid == body


@pytest.mark.parametrize("body", GOOD)
def test_what_follows_a_body_belongs_to_the_next_request(body: bytes) -> None:
    framing, valid = fed(body + b"GET / HTTP/1.1\r\n", 1000)

    assert framing.is_complete
    assert valid == body + b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize("size", [1, 2, 7, 1_000_000])
@pytest.mark.parametrize("name", BAD)
def test_other_bodies_are_broken_and_their_invalid_part_is_never_parsed(name: str, size: int) -> None:
    body = BAD[name]
    framing, valid = fed(body, size)

    assert framing.is_broken
    assert body.startswith(valid)
    assert valid == fed(body, 1_000_000)[1]
    assert framing.feed(b"5\r\nhello\r\n") == b""


def test_large_chunk_passes_as_it_arrives() -> None:
    framing = ChunkFraming()
    assert framing.feed(b"100000\r\nabc") == b"100000\r\nabc"
    assert framing.feed(b"d" * 1000) == b"d" * 1000
    assert not framing.is_broken
