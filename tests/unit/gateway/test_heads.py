"""Heads that parsers repair in different ways are refused before any of them sees them."""

from __future__ import annotations

import pytest

from gpumand.gateway.heads import is_valid_head

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
