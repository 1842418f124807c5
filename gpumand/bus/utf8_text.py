"""Works around wrong string lengths in dbus-fast 1.84 (Debian 12).

That version writes the number of characters where D-Bus requires the number of bytes. A single "ü" in a reply makes an
invalid message, and the bus closes the connection. Later versions are correct and get the values unchanged.
"""

from __future__ import annotations

from typing import Any

from dbus_fast import Variant
from dbus_fast.__version__ import __version__


class Utf8Text(str):
    """A string whose ``len()`` is its size in UTF-8 bytes; otherwise it behaves like any string."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.encode())


COUNTS_CHARACTERS = int(__version__.partition(".")[0]) < 2
"""Whether the installed version of dbus-fast has the bug."""


def with_byte_lengths(value: Any) -> Any:
    """Return the value with all text that is not ASCII as ``Utf8Text``, at any depth, if dbus-fast has the bug."""
    return _with_byte_lengths(value) if COUNTS_CHARACTERS else value


def _with_byte_lengths(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else Utf8Text(value)
    if isinstance(value, Variant):
        return value if _is_plain(value.value) else Variant(value.signature, _with_byte_lengths(value.value))
    if isinstance(value, dict):
        return {_with_byte_lengths(key): _with_byte_lengths(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_with_byte_lengths, value))
    return value


def _is_plain(value: Any) -> bool:
    """Whether a Variant's value needs no conversion; this spares most values, which are numbers and ASCII text."""
    return value.isascii() if isinstance(value, str) else not isinstance(value, dict | list | tuple | Variant)
