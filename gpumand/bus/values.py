"""Values on their way onto the bus and off it."""

from __future__ import annotations

from collections.abc import Mapping
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
    kind = type(value)
    if kind is Variant:
        value, kind = value.value, type(value.value)
    if kind is int or kind is bool:
        return
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a string with a NUL cannot go onto the bus")
    elif isinstance(value, dict):
        require_no_nul(tuple(value))
        require_no_nul(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            require_no_nul(item)
    elif isinstance(value, Variant):
        require_no_nul(value)


def to_variants(options: Mapping[str, tuple[str, Any]]) -> dict[str, Variant]:
    """An ``a{sv}`` argument from names to (signature, plain value)."""
    return {name: Variant(signature, value) for name, (signature, value) in options.items()}
