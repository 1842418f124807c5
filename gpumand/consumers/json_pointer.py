"""JSON pointers (RFC 6901): the way to one value inside a parsed document.

Beyond the RFC, a token ``[key=value]`` selects from a list the first object whose ``key`` is the text ``value``, and
``[=value]`` the text itself; at the end of a pointer it is null where the list has no such element, since a list says
by leaving out. For ``resolve_all``, a token ``*`` is every element of a list.
"""

from __future__ import annotations

import re
from typing import Any

_BAD_ESCAPE = re.compile(r"~(?![01])")
_SELECTOR = re.compile(r"\[([^=]*)=(.*)\]", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


EVERY = "*"


class _NoSuchEntry(LookupError):
    """There is a list, and it has no object like this."""


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
    place, tokens = document, parse(pointer)
    for token in tokens[:-1]:
        place = _step(place, token)
    return _last(place, tokens[-1]) if tokens else place


def resolve_all(document: Any, pointer: str) -> list[Any]:
    """Every value that the pointer leads to; more than one only where it has a ``*``.

    Raises LookupError where the document has no such place (an empty list has it, no times), PointerInvalid where the
    pointer is malformed.
    """
    places, tokens = [document], parse(pointer)
    for number, token in enumerate(tokens, start=1):
        if token == EVERY:
            places = [element for place in places for element in _elements(place)]
        else:
            step = _last if number == len(tokens) else _step
            places = [step(place, token) for place in places]
    return places


def _elements(place: Any) -> list[Any]:
    if not isinstance(place, list):
        raise LookupError("no list there")
    return place


def _last(place: Any, token: str) -> Any:
    """The end of a way: what a list would have to hold and does not is null."""
    try:
        return _step(place, token)
    except _NoSuchEntry:
        return None


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
        if (entry.get(key) if key and isinstance(entry, dict) else entry) == value:
            return entry
    raise _NoSuchEntry(f"no entry whose {key!r} is {value!r}" if key else f"no entry {value!r}")
