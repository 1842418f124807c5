"""Finds the members of a JSON object without building it: requests carry images of many MiB beside a few short members.

The text is not validated: the consumer does that. What programs could read in different ways is refused: a member that
decides about the consumer may be given only once, in one spelling (servers in Go ignore upper and lower case).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

MAX_TOKENS = 2_000_000
"""Maximum number of strings and brackets inside members, which takes about half a second to skip."""

MAX_MEMBERS = 1000
MAX_SCALAR_BYTES = 4096

_BLANK = rb"[ \t\r\n]*+"
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_OPEN = re.compile(_BLANK + rb"\{" + _BLANK)
_KEY = re.compile(rb"(" + _STRING + rb")" + _BLANK + rb":" + _BLANK, re.DOTALL)
_SCALAR = re.compile(_STRING + rb"|[-+.0-9A-Za-z]++", re.DOTALL)
_NESTED = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NEXT = re.compile(_BLANK + rb"([,}])" + _BLANK)

MODEL = "model"


class BadJson(Exception):
    """The text is no JSON object, or it is ambiguous; the message says why."""


@dataclass(slots=True)
class Scan:
    """The members of a JSON object.

    Attributes:
        members: values of members that are short strings, numbers, booleans or null; a list or an object is True if it
            is not empty, and a long string is True too.
        model_span: begin and end of the value of the member that names the model in the text; None if there is none.
    """

    members: dict[str, object] = field(default_factory=dict)
    model_span: tuple[int, int] | None = None


def scan(text: bytes, key: str = MODEL) -> Scan:
    """Read the members of an object. Takes long for large texts: call it in a thread above 1 MiB. Raises BadJson.

    Args:
        text: the object.
        key: the member that names the model, in lower case.
    """
    found, opening = Scan(), _OPEN.match(text)
    if opening is None:
        raise BadJson("the body is not a JSON object")
    position = opening.end()
    if text[position : position + 1] == b"}":
        return _ended(text, position + 1, found)
    for _ in range(MAX_MEMBERS):
        position = _member(text, position, found, key)
        separator = _NEXT.match(text, position)
        if separator is None:
            raise BadJson("the body is not valid JSON")
        position = separator.end()
        if separator[1] == b"}":
            return _ended(text, position, found)
    raise BadJson(f"the JSON object has more than {MAX_MEMBERS} members")


def replaced(text: bytes, span: tuple[int, int], value: str) -> bytes:
    """The text with one value replaced by a string; everything else stays as it was."""
    return b"".join((text[: span[0]], json.dumps(value).encode(), text[span[1] :]))


def _ended(text: bytes, position: int, found: Scan) -> Scan:
    if text[position:].strip(b" \t\r\n"):
        raise BadJson("there is text after the JSON object")
    return found


def _member(text: bytes, position: int, found: Scan, watched: str) -> int:
    """Read one member; returns the position after it."""
    matched = _KEY.match(text, position)
    if matched is None:
        raise BadJson("the body is not valid JSON")
    key = str(_value(matched[1]))
    begin = matched.end()
    if text[begin : begin + 1] in (b"{", b"["):
        end = _skip(text, begin)
        value: object = bool(text[begin + 1 : end - 1].strip())
    else:
        scalar = _SCALAR.match(text, begin)
        if scalar is None:
            raise BadJson("the body is not valid JSON")
        end, value = scalar.end(), _value(scalar[0])
    if key.casefold() == watched:
        _check_watched(key, found, watched)
        found.model_span = begin, end
    found.members[key] = value
    return end


def _check_watched(key: str, found: Scan, watched: str) -> None:
    if key != watched or found.model_span is not None:
        raise BadJson(f"{watched} must be given once, in lower case: programs read other spellings in different ways")


def _skip(text: bytes, begin: int) -> int:
    """The position after a nested list or object."""
    depth = 0
    for count, token in enumerate(_NESTED.finditer(text, begin)):
        first = token[0][:1]
        if first in (b"[", b"{"):
            depth += 1
        elif first in (b"]", b"}"):
            depth -= 1
            if not depth:
                return token.end()
        if count > MAX_TOKENS:
            raise BadJson(f"the JSON document has more than {MAX_TOKENS} strings and lists")
    raise BadJson("the body is not valid JSON")


def _value(token: bytes) -> object:
    if len(token) > MAX_SCALAR_BYTES:
        return True
    try:
        return json.loads(token)
    except (ValueError, RecursionError):
        raise BadJson("the body is not valid JSON") from None
