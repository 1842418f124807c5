"""Checks the syntax of a request head, and how it frames the body, before any library parses it.

Versions of aiohttp differ in what they tolerate and repair: line feeds without carriage returns, folded lines, spaces
before the colon, headers without a name. What a parser repairs, the next program may read in another way.
"""

from __future__ import annotations

import re
from enum import Enum

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    _TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]\r\n"
    rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)


def is_valid_head(head: bytes) -> bool:
    """Whether a head, up to and including the empty line at its end, has exactly the syntax of HTTP/1.0 or 1.1."""
    return _HEAD.fullmatch(head) is not None


class Framing(Enum):
    """How a head frames the body that follows it."""

    LENGTH = "length"
    """By Content-Length; without that header there is no body."""

    CHUNKED = "chunked"
    INVALID = "invalid"


_FRAMING_FIELD = re.compile(rb"\r\n(content-length|transfer-encoding|connection):([^\r]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_END_TO_END = frozenset({b"content-length", b"host"})
"""Headers that Connection must not name: without them the next program would read another request."""


def framing_of(head: bytes) -> Framing:
    """How a head frames its body. The head must have a valid syntax.

    Lengths that are repeated, even with one value, and codings other than chunked are invalid: programs differ in which
    of them they believe.
    """
    fields = [(name.lower(), value.strip(b"\t ")) for name, value in _FRAMING_FIELD.findall(head)]
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    options = {
        one.strip(b"\t ").lower() for name, value in fields if name == b"connection" for one in value.split(b",")
    }
    if len(lengths) + len(codings) > 1 or options & _END_TO_END:
        return Framing.INVALID
    if lengths:
        return Framing.LENGTH if _LENGTH.fullmatch(lengths[0]) else Framing.INVALID
    if not codings:
        return Framing.LENGTH
    is_valid = codings == [b"chunked"] and head.partition(b"\r\n")[0].endswith(b"HTTP/1.1")
    return Framing.CHUNKED if is_valid else Framing.INVALID


def length_of(head: bytes) -> int:
    """The length of the body that follows a head with the framing LENGTH."""
    return next((int(value) for name, value in _FRAMING_FIELD.findall(head) if name.lower() == b"content-length"), 0)
