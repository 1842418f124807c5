"""Copies of frozen dataclasses with other values in some fields, for code that runs with every lease.

``dataclasses.replace`` calls ``__init__``, which sets every field by itself. That takes up to ten times as long.
"""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")


def copy_with(value: T, **changes: Any) -> T:
    """A copy with other values in some fields.

    Args:
        value: an object of a frozen dataclass without slots and without ``__post_init__``.
        changes: the new values by field.
    """
    fields = value.__dict__
    other = object.__new__(type(value))
    copied = other.__dict__
    copied.update(fields)
    copied.update(changes)
    assert len(copied) == len(fields), f"{type(value).__name__} has no such field as one of {list(changes)}"
    return other
