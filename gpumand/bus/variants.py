"""Converts values to and from dbus-fast's Variants, and checks them before they are sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dbus_fast import Variant


def unwrap(value: Any) -> Any:
    """Return the value without Variants, at any depth.

    Arrays and structs become lists, since dbus-fast returns structs as lists or as tuples, depending on its version.
    """
    if isinstance(value, Variant):
        return unwrap(value.value)
    if isinstance(value, list | tuple):
        return [unwrap(item) for item in value]
    if isinstance(value, dict):
        return {key: unwrap(item) for key, item in value.items()}
    return value


def require_no_nul(value: Any) -> None:
    """Raise ValueError if a string contains a NUL: the bus closes the connection of a client that sends one."""
    if isinstance(value, Variant):
        value = value.value
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a string that contains a NUL cannot be sent on the bus")
    elif isinstance(value, dict):
        _require_no_nul_in(value)
        _require_no_nul_in(value.values())
    elif isinstance(value, list | tuple):
        _require_no_nul_in(value)
    elif isinstance(value, Variant):
        require_no_nul(value)


def _require_no_nul_in(values: Iterable[Any]) -> None:
    """Check several values, without a function call for plain text, numbers and their Variants.

    The check runs for every message that is sent, and most values are plain.
    """
    for value in values:
        plain = value.value if type(value) is Variant else value
        kind = type(plain)
        if kind is str:
            if "\0" in plain:
                require_no_nul(plain)
        elif kind is dict:
            _require_no_nul_in(plain)
            _require_no_nul_in(plain.values())
        elif kind is not int and kind is not bool and plain:
            require_no_nul(plain)


def to_variants(options: Mapping[str, tuple[str, Any]]) -> dict[str, Variant]:
    """Return an ``a{sv}`` argument made of names with their (signature, plain value)."""
    return {name: Variant(signature, value) for name, (signature, value) in options.items()}
