"""Checks the syntax of a request head before any library parses it.

Versions of aiohttp differ in what they tolerate and repair: line feeds without carriage returns, folded lines, spaces
before the colon, headers without a name. What a parser repairs, the next program may read in another way.
"""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    _TOKEN + rb" [\x21-\x7e\x80-\xff]+ HTTP/1\.[01]\r\n"
    rb"(?:" + _TOKEN + rb":[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n"
)


def is_valid_head(head: bytes) -> bool:
    """Whether a head, up to and including the empty line at its end, has exactly the syntax of HTTP/1.0 or 1.1."""
    return _HEAD.fullmatch(head) is not None
