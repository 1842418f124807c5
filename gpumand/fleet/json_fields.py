"""Reads fields of JSON objects that other hosts wrote: every value is checked for its type and its size."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TypeGuard

MAX_EXTRA = 32
"""Number of unknown keys of an object that are kept."""

MAX_DEPTH = 16
"""Nesting of objects and lists: texts that are nested deeper can be read, but perhaps not be written again."""

MAX_NUMBER = 2**53
"""The greatest integer that every JSON parser reads exactly."""

MAX_MESSAGE = 2000
"""Greatest length of the message of an error, in characters."""


class InvalidJson(ValueError):
    """A text is not what it should be; the message is one line that names the key."""


def parse_object(text: str, what: str, max_bytes: int) -> dict[str, object]:
    """Parse a JSON object.

    Args:
        text: the JSON text.
        what: what it is, for messages.
        max_bytes: greatest size of the text in UTF-8.

    Raises InvalidJson.
    """
    if len(text) > max_bytes or len(text.encode("utf-8", "surrogatepass")) > max_bytes:
        raise InvalidJson(f"{what} is larger than {max_bytes} bytes")
    try:
        found = json.loads(text, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:  # deep nesting ends in a RecursionError
        raise InvalidJson(f"{what} is not JSON: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise InvalidJson(f"{what} is not a JSON object")
    if _is_deep(found):
        raise InvalidJson(f"{what} is nested more than {MAX_DEPTH} levels deep")
    return found


def _is_deep(value: object) -> bool:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level for inner in _parts(one)]
    return bool(level)


def _parts(value: object) -> Iterable[object]:
    """The values in an object or a list; nothing for other values."""
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def as_object(value: object, what: str) -> dict[str, object]:
    """Return a value that must be an object. Raises InvalidJson."""
    if not isinstance(value, dict):
        raise InvalidJson(f"{what} is not an object")
    return value


def as_list(value: object, what: str, at_most: int) -> list[object]:
    """Return a value that must be a list, with a number of elements that is limited. Raises InvalidJson."""
    if not isinstance(value, list):
        raise InvalidJson(f"{what} is not a list")
    if len(value) > at_most:
        raise InvalidJson(f"{what} has {len(value)} elements, more than {at_most}")
    return value


def is_integer(value: object) -> TypeGuard[int]:
    """Whether a value is an integer from 0 to ``MAX_NUMBER``."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NUMBER


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value is a finite number from 0 to ``MAX_NUMBER``; 1e400 is read as an infinite one."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value) and 0 <= value <= MAX_NUMBER)


def number(fields: Mapping[str, object], key: str) -> int | None:
    """The number of a key, an integer from 0; None where the key is missing or null. Raises InvalidJson."""
    value = fields.get(key)
    if value is None:
        return None
    if not is_integer(value):
        raise InvalidJson(f"{key} is not an integer from 0 to 2^53")
    return value


def text(fields: Mapping[str, object], key: str, at_most: int) -> str:
    """The text of a key, printable characters only; "" where the key is missing or null. Raises InvalidJson."""
    value = fields.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > at_most:
        raise InvalidJson(f"{key} is not a text of at most {at_most} characters")
    if not value.isprintable():  # a row is shown in terminals; lone surrogates are not printable either
        raise InvalidJson(f"{key} contains characters that are not printable")
    return value


def one_line(text: str, at_most: int) -> str:
    """A text of another host as one line of limited length, without control characters."""
    return "".join(one if one.isprintable() else " " for one in text[:at_most])


def flag(fields: Mapping[str, object], key: str) -> bool:
    """The truth value of a key; false where the key is missing or null. Raises InvalidJson."""
    value = fields.get(key)
    if value is not None and not isinstance(value, bool):
        raise InvalidJson(f"{key} is neither true nor false")
    return bool(value)


def extra(fields: Mapping[str, object], known: frozenset[str]) -> dict[str, object]:
    """The fields with unknown keys, a limited number of them."""
    return {key: fields[key] for key in sorted(fields.keys() - known)[:MAX_EXTRA]}


def refuse_constant(name: str) -> object:
    """Raise ValueError for NaN and Infinity: Python reads and writes them, but other JSON parsers do not."""
    raise ValueError(f"{name} is not JSON")
