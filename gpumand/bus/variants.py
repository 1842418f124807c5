"""Values on their way onto the bus and off it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dbus_fast import Variant


def unwrap(value: Any) -> Any:
    """The value without the binding's Variants, at any depth.

    Arrays and structs become lists: structs come as lists from some versions of the binding, as tuples from others.
    """
    if isinstance(value, Variant):
        return unwrap(value.value)
    if isinstance(value, list | tuple):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


def require_no_nul(value: Any) -> None:
    """Raise ValueError where a string holds a NUL: the bus drops the connection of whoever sends one."""
    if isinstance(value, Variant):
        value = value.value
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a string with a NUL cannot go onto the bus")
    elif isinstance(value, dict):
        _require_none_in(value)
        _require_none_in(value.values())
    elif isinstance(value, list | tuple):
        _require_none_in(value)
    elif isinstance(value, Variant):
        require_no_nul(value)


def _require_none_in(values: Iterable[Any]) -> None:
    """Most are plain text, numbers and Variants of those, in every message that is sent: they cost no call each."""
    for value in values:
        plain = value.value if type(value) is Variant else value
        kind = type(plain)
        if not (kind is int or kind is bool or (kind is str and "\0" not in plain)):
            require_no_nul(plain)


def to_variants(options: Mapping[str, tuple[str, Any]]) -> dict[str, Variant]:
    """An ``a{sv}`` argument from names to (signature, plain value)."""
    return {name: Variant(signature, value) for name, (signature, value) in options.items()}
