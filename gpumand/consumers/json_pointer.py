"""Resolves JSON pointers (RFC 6901), which select one value in a parsed document.

As an extension to the RFC, a token ``[key=value]`` selects the first object in a list whose ``key`` is the string
``value``, and ``[=value]`` selects that string itself. If the list has no such element, the pointer yields null,
because servers report "not loaded" by leaving a model out of a list. For ``resolve_all``, a token ``*`` stands for
every element of a list, and only a pointer that ends with the selector yields null.
"""

from __future__ import annotations

import re
from typing import Any

_BAD_ESCAPE = re.compile(r"~(?![01])")
_SELECTOR = re.compile(r"\[([^=]*)=(.*)\]", re.DOTALL)
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


WILDCARD = "*"


class _NoMatchingEntry(LookupError):
    """The list exists, but none of its elements matches the selector."""


class PointerInvalid(ValueError):
    """The pointer itself is malformed; the message is one line."""


def parse(pointer: str) -> tuple[str, ...]:
    """Split a pointer into its unescaped tokens; ``""`` stands for the whole document and has none.

    Raises:
        PointerInvalid: the pointer does not start with "/", or contains a "~" that escapes nothing.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise PointerInvalid(f"a JSON pointer must start with '/': {pointer!r}")
    if _BAD_ESCAPE.search(pointer):
        raise PointerInvalid(f"a JSON pointer must have '~0' for '~' and '~1' for '/': {pointer!r}")
    return tuple(unescape(token) for token in pointer[1:].split("/"))


def unescape(token: str) -> str:
    """Replace ``~1`` by a slash, then ``~0`` by a tilde; this order, required by the RFC, turns ``~01`` into ``~1``."""
    return token.replace("~1", "/").replace("~0", "~")


def escape(token: str) -> str:
    """Escape a token for use in a pointer."""
    return token.replace("~", "~0").replace("/", "~1")


def resolve(document: Any, pointer: str) -> Any:
    """Return the value that a pointer selects.

    Raises:
        LookupError: the document has no such value.
        PointerInvalid: the pointer is malformed.
    """
    value = document
    for token in parse(pointer):
        try:
            value = _step(value, token)
        except _NoMatchingEntry:
            return None
    return value


def resolve_all(document: Any, pointer: str) -> list[Any]:
    """Return all values that a pointer selects: more than one only if it contains ``*``, none for an empty list.

    Raises:
        LookupError: the document has no such value.
        PointerInvalid: the pointer is malformed.
    """
    values, tokens = [document], parse(pointer)
    for number, token in enumerate(tokens, start=1):
        if token == WILDCARD:
            values = [element for value in values for element in _elements(value)]
        else:
            step = _final_step if number == len(tokens) else _step
            values = [step(value, token) for value in values]
    return values


def choices(document: Any, pointer: str) -> list[str]:
    """Return the strings that the first selector of a pointer chooses from, if none of them matches; [] otherwise.

    Raises:
        LookupError: the document has no such list.
        PointerInvalid: the pointer is malformed.
    """
    value = document
    for token in parse(pointer):
        selector = _SELECTOR.fullmatch(token)
        if selector is not None and isinstance(value, list):
            key, wanted = selector.groups()
            found = [entry.get(key) if key and isinstance(entry, dict) else entry for entry in value]
            return [] if wanted in found else [one for one in found if isinstance(one, str)]
        value = _step(value, token)
    return []


def _elements(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise LookupError("not a list")
    return value


def _final_step(value: Any, token: str) -> Any:
    """Resolve the last token; a selector that matches no element yields null."""
    try:
        return _step(value, token)
    except _NoMatchingEntry:
        return None


def _step(value: Any, token: str) -> Any:
    if isinstance(value, dict):
        return value[token]
    if isinstance(value, list) and _INDEX.fullmatch(token):
        return value[int(token)]
    if isinstance(value, list) and (selector := _SELECTOR.fullmatch(token)):
        return _select(value, *selector.groups())
    raise LookupError(f"no entry {token!r}")


def _select(entries: list[Any], key: str, value: str) -> Any:
    for entry in entries:
        if (entry.get(key) if key and isinstance(entry, dict) else entry) == value:
            return entry
    raise _NoMatchingEntry(f"no entry whose {key!r} is {value!r}" if key else f"no entry {value!r}")
