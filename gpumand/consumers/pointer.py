"""JSON pointers (RFC 6901): the way to one value inside a parsed document.

Beyond the RFC, a token ``[key=value]`` selects from a list the first object whose ``key`` is the text ``value``.
"""

from __future__ import annotations

import re
from typing import Any

_BAD_ESCAPE = re.compile(r"~(?![01])")
_SELECTOR = re.compile(r"\[([^=]+)=(.*)\]", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


class PointerInvalid(ValueError):
    """The pointer itself is malformed; the message is one line."""


def parse(pointer: str) -> tuple[str, ...]:
    """Split a pointer into its tokens, unescaped; ``""`` is the whole document and has none.

    Raises PointerInvalid where it does not begin with "/" or has a "~" that escapes nothing.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise PointerInvalid(f"a JSON pointer begins with '/': {pointer!r}")
    if _BAD_ESCAPE.search(pointer):
        raise PointerInvalid(f"in a JSON pointer '~' is written '~0' and '/' is written '~1': {pointer!r}")
    return tuple(unescape(token) for token in pointer[1:].split("/"))


def unescape(token: str) -> str:
    """``~1`` is a slash and ``~0`` a tilde; in this order, so that ``~01`` is ``~1``."""
    return token.replace("~1", "/").replace("~0", "~")


def escape(token: str) -> str:
    """The token as it is written in a pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def resolve(document: Any, pointer: str) -> Any:
    """The value that the pointer leads to.

    Raises LookupError where the document has no such place, PointerInvalid where the pointer is malformed.
    """
    place = document
    for token in parse(pointer):
        place = _step(place, token)
    return place


def _step(place: Any, token: str) -> Any:
    if isinstance(place, dict):
        return place[token]
    if isinstance(place, list) and _INDEX.fullmatch(token):
        return place[int(token)]
    if isinstance(place, list) and (selector := _SELECTOR.fullmatch(token)):
        return _select(place, *selector.groups())
    raise LookupError(f"nothing named {token!r} there")


def _select(entries: list[Any], key: str, value: str) -> Any:
    for entry in entries:
        if isinstance(entry, dict) and entry.get(key) == value:
            return entry
    raise LookupError(f"no entry whose {key!r} is {value!r}")
