"""Heads that parsers repair in different ways are refused before any of them sees them."""

from __future__ import annotations

import pytest

from gpumand.gateway.heads import Framing, framing_of, is_valid_head

GOOD = [
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
    b"M-SEARCH * HTTP/1.1\r\nX:\r\nY:  two\twords \r\nZ: \xe4\r\n\r\n",
]
BAD = [
    b"GET / HTTP/1.1\n\n",
    b"GET / HTTP/1.1\r\nHost: a\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\r\n b\r\n\r\n",
    b"GET / HTTP/1.1\r\n X: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\rb\r\n\r\n",
    b"GET / HTTP/1.1\r\nX: a\x00\r\n\r\n",
    b"GET / HTTP/1.1\r\nX\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1 \r\n\r\n",
    b"GET /\r\n\r\n",
    b"GET / HTTP/2.0\r\n\r\n",
    b"GET / http/1.1\r\n\r\n",
    b"G\x00T / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01\r\n\r\n",
]


@pytest.mark.parametrize("head", GOOD)
def test_valid_heads_are_accepted(head: bytes) -> None:
    assert is_valid_head(head)


@pytest.mark.parametrize("head", BAD)
def test_other_heads_are_refused(head: bytes) -> None:
    assert not is_valid_head(head)


def framing(*fields: str, version: str = "1.1") -> Framing:
    head = "\r\n".join([f"POST / HTTP/{version}", "Host: a", *fields, "", ""]).encode()
    assert is_valid_head(head)
    return framing_of(head)


def test_body_is_framed_by_a_length_or_by_chunks() -> None:
    assert framing() is Framing.LENGTH
    assert framing("Content-Length: 5") is Framing.LENGTH
    assert framing("content-length:\t5 ", "Connection: keep-alive, X-A") is Framing.LENGTH
    assert framing("Transfer-Encoding: Chunked", "Connection: TE") is Framing.CHUNKED
    assert framing("X-Content-Length: +5", "Content-Length-X: a") is Framing.LENGTH


@pytest.mark.parametrize(
    "fields",
    [
        ("Content-Length: 5", "Content-Length: 5"),
        ("Content-Length: 5", "content-length: 6"),
        ("Content-Length: 5, 5",),
        ("Content-Length: +5",),
        ("Content-Length: -5",),
        ("Content-Length: 0x5",),
        ("Content-Length: 5_0",),
        ("Content-Length: 5 0",),
        ("Content-Length:",),
        ("Content-Length: 9999999999999999999",),
        ("Content-Length: 5", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Content-Length: 5"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        ("Transfer-Encoding: xchunked",),
        ("Transfer-Encoding: chunked, identity",),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked, chunked",),
        ("Transfer-Encoding: identity",),
        ("Transfer-Encoding:",),
        ('Transfer-Encoding: "chunked"',),
        ("Content-Length: 5", "Connection: close, Content-Length"),
        ("Connection: host",),
    ],
)
def test_heads_that_programs_frame_in_different_ways_are_invalid(fields: tuple[str, ...]) -> None:
    assert framing(*fields) is Framing.INVALID


def test_chunks_do_not_exist_in_http_1_0() -> None:
    assert framing("Transfer-Encoding: chunked", version="1.0") is Framing.INVALID
