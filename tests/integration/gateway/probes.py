"""Requests that two programs may read differently, and requests that look like them and are valid.

Each probe is sent over a connection of its own. Where it holds a second request, that one asks for ``/smuggled``.
"""

from __future__ import annotations

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"0\r\n\r\n"


def head(*lines: str, first: str = "POST /probe HTTP/1.1", host: str = "Host: localhost") -> bytes:
    return "\r\n".join([first, host, *lines, "", ""]).encode("latin-1")


def chunked(body: bytes, *lines: str) -> bytes:
    return head("Transfer-Encoding: chunked", *lines) + body


LENGTHS: dict[str, bytes] = {
    "length, then chunked": head("Content-Length: 5", "Transfer-Encoding: chunked") + LAST + HIDDEN,
    "chunked, then length": head("Transfer-Encoding: chunked", "Content-Length: 5") + LAST + HIDDEN,
    "two different lengths": head("Content-Length: 0", "Content-Length: 44") + HIDDEN,
    "two equal lengths": head("Content-Length: 5", "Content-Length: 5") + b"hello" + HIDDEN,
    "list of lengths": head("Content-Length: 5, 5") + b"hello",
    "length with a plus": head("Content-Length: +5") + b"hello",
    "negative length": head("Content-Length: -5") + b"hello",
    "hexadecimal length": head("Content-Length: 0x5") + b"hello",
    "length with an underscore": head("Content-Length: 0_5") + b"hello",
    "empty length": head("Content-Length:") + b"hello",
    "length with a space": head("Content-Length: 1 0") + b"hello",
    "huge length": head("Content-Length: 18446744073709551621") + b"hello",
    "length that Connection names": head("Content-Length: 44", "Connection: content-length") + HIDDEN,
    "length after a folded line": head("X-A: a\r\n b", "Content-Length: 44") + HIDDEN,
    "space before the colon of a length": head("Content-Length : 44") + HIDDEN,
    "underscored length": head("Content_Length : 44") + HIDDEN,
}
CODINGS: dict[str, bytes] = {
    "unknown coding": head("Transfer-Encoding: xchunked") + LAST + HIDDEN,
    "chunked is not last": head("Transfer-Encoding: chunked, identity") + LAST + HIDDEN,
    "chunked is not alone": head("Transfer-Encoding: gzip, chunked") + LAST + HIDDEN,
    "chunked twice": head("Transfer-Encoding: chunked", "Transfer-Encoding: chunked") + LAST + HIDDEN,
    "chunked and identity": head("Transfer-Encoding: chunked", "Transfer-Encoding: identity") + LAST + HIDDEN,
    "identity": head("Transfer-Encoding: identity", "Content-Length: 5") + b"hello",
    "empty coding": head("Transfer-Encoding:") + LAST,
    "quoted coding": head('Transfer-Encoding: "chunked"') + LAST,
    "folded coding": head("Transfer-Encoding:\r\n chunked") + LAST + HIDDEN,
    "coding after a folded line": head("X-A: a\r\n\tb", "Transfer-Encoding: chunked") + LAST + HIDDEN,
    "space before the colon of a coding": head("Transfer-Encoding : chunked") + LAST + HIDDEN,
    "vertical tab before the coding": head("Transfer-Encoding: \x0bchunked") + LAST + HIDDEN,
    "NUL after the coding": head("Transfer-Encoding: chunked\0") + LAST + HIDDEN,
    "chunks in HTTP/1.0": head("Transfer-Encoding: chunked", first="POST /probe HTTP/1.0") + LAST + HIDDEN,
}
CHUNKS: dict[str, bytes] = {
    "line feed in an extension": chunked(b"5;a\nb\r\nhello\r\n" + LAST),
    "carriage return in an extension": chunked(b"5;a\rb\r\nhello\r\n" + LAST),
    "NUL in an extension": chunked(b"5;a\0b\r\nhello\r\n" + LAST),
    "request in an extension": chunked(b"2;\n00\r\n" + HIDDEN + LAST),
    "line feed after a size": chunked(b"5\nhello\r\n" + LAST),
    "line feed after the data": chunked(b"5\r\nhello\n" + LAST),
    "line feed at the end": chunked(b"5\r\nhello\r\n0\r\n\n" + HIDDEN),
    "size with a prefix": chunked(b"0x5\r\nhello\r\n" + LAST),
    "size with an underscore": chunked(b"0_5\r\nhello\r\n" + LAST),
    "size with a plus": chunked(b"+5\r\nhello\r\n" + LAST),
    "negative size": chunked(b"-5\r\nhello\r\n" + LAST),
    "huge size": chunked(b"10000000000000005\r\nhello\r\n" + LAST),
    "size of 64 bits": chunked(b"ffffffffffffffff\r\nhello\r\n" + LAST),
    "space before a size": chunked(b" 5\r\nhello\r\n" + LAST),
    "empty size": chunked(b"\r\nhello\r\n" + LAST),
    "data longer than its size": chunked(b"5\r\nhello" + HIDDEN),
    "data shorter than its size": chunked(b"6\r\nhello\r\n" + LAST + HIDDEN),
    "trailer without a colon": chunked(b"0\r\n" + HIDDEN),
    "folded trailer": chunked(b"0\r\nX-A: a\r\n b\r\n\r\n"),
    "space before the colon of a trailer": chunked(b"0\r\nX-A : a\r\n\r\n"),
    "line feed in a trailer": chunked(b"0\r\nX-A: a\n\r\n" + HIDDEN),
}
FIELDS: dict[str, bytes] = {
    "two hosts": head("Host: other"),
    "host that Connection names": head("Connection: close, Host"),
    "space before the colon": head("X-A : a"),
    "empty name": head(": a"),
    "no colon": head("X-A"),
    "NUL in a value": head("X-A: a\0b"),
    "NUL in a name": head("X\0A: a"),
    "carriage return in a value": head("X-A: a\rContent-Length: 44") + HIDDEN,
    "line feed in a value": head("X-A: a\nContent-Length: 44") + HIDDEN,
    "folded field": head("X-A: a\r\n b"),
    "first field is folded": head(host=" Host: localhost"),
    "control character in a value": head("X-A: a\x7fb"),
    "line feeds only": b"GET /probe HTTP/1.1\nHost: localhost\n\n" + HIDDEN,
    "line feed at the end of the head": b"GET /probe HTTP/1.1\r\nHost: localhost\r\n\n" + HIDDEN,
}
TARGETS: dict[str, bytes] = {
    name: head(first=first)
    for name, first in {
        "foreign absolute form": "GET http://169.254.169.254/latest HTTP/1.1",
        "own absolute form": "GET http://localhost/probe HTTP/1.1",
        "authority form": "CONNECT example.org:443 HTTP/1.1",
        "asterisk form": "OPTIONS * HTTP/1.1",
        "no slash": "GET probe HTTP/1.1",
        "dot segments": "GET /a/../../etc HTTP/1.1",
        "dot segment with parameters": "GET /a/..;x/b HTTP/1.1",
        "encoded dots": "GET /a/%2e%2e/%2fadmin HTTP/1.1",
        "encoded slash": "GET /a%2fadmin HTTP/1.1",
        "backslash": "GET /a\\admin HTTP/1.1",
        "encoded NUL": "GET /a%00b HTTP/1.1",
        "space": "GET /a b HTTP/1.1",
        "two spaces": "GET  /probe HTTP/1.1",
        "tab": "GET\t/probe HTTP/1.1",
        "no version": "GET /probe",
        "unknown version": "GET /probe HTTP/1.2",
        "HTTP/2": "PRI * HTTP/2.0",
        "lower case": "GET /probe http/1.1",
    }.items()
}
PROBES = LENGTHS | CODINGS | CHUNKS | FIELDS | TARGETS

CLOSE = "Connection: close"
VALID: dict[str, bytes] = {
    "length": head("Content-Length: 5", CLOSE) + b"hello",
    "chunks": chunked(b"5;a=b\r\nhello\r\n" + LAST, CLOSE),
    "padded sizes": chunked(b"0005;a\r\nhello\r\n000\r\n\r\n", CLOSE),
    "trailer": chunked(b"5\r\nhello\r\n0\r\nDigest: a\r\n\r\n", CLOSE),
    "capital coding": head("Transfer-Encoding: Chunked", CLOSE) + b"5\r\nhello\r\n" + LAST,
}
"""Requests whose body is ``hello``."""
