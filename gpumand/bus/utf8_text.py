"""Text whose size in bytes is not its number of characters, for a binding that confuses the two.

dbus-fast 1.84 (Debian 12) writes the number of characters where D-Bus wants the number of bytes. A single "ü" in a
reply makes a message that the bus takes for an attack: it closes the connection. Later versions are right, and are
given what there is as it is.
"""

from __future__ import annotations

from typing import Any

from dbus_fast import Variant
from dbus_fast.__version__ import __version__


class Utf8Text(str):
    """Text that says its size in UTF-8 when it is asked for its length; otherwise a string like any other."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.encode())


COUNTS_CHARACTERS = int(__version__.partition(".")[0]) < 2
"""Whether this version of the binding is one that confuses them."""


def sized(value: Any) -> Any:
    """The same value, at any depth, with all text that is not ASCII as ``Octets``, where the binding needs that."""
    return _sized(value) if COUNTS_CHARACTERS else value


def _sized(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else Utf8Text(value)
    if isinstance(value, Variant):
        return value if _is_plain(value.value) else Variant(value.signature, _sized(value.value))
    if isinstance(value, dict):
        return {_sized(key): _sized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_sized, value))
    return value


def _is_plain(value: Any) -> bool:
    """Whether a Variant's value needs no look inside: most are numbers and ASCII."""
    return value.isascii() if isinstance(value, str) else not isinstance(value, dict | list | tuple | Variant)
