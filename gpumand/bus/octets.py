"""Text whose size in bytes is not its number of characters, for a binding that confuses the two.

dbus-fast 1.84 (Debian 12) writes the number of characters where D-Bus wants the number of bytes. A single "ü" in a
reply makes a message that the bus takes for an attack: it closes the connection. Later versions are right, and are
not disturbed by this.
"""

from __future__ import annotations

from typing import Any

from dbus_fast import Variant


class Octets(str):
    """Text that says its size in UTF-8 when it is asked for its length; otherwise a string like any other."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.encode())


def sized(value: Any) -> Any:
    """The same value, at any depth, with all text that is not ASCII as ``Octets``."""
    if isinstance(value, str):
        return value if value.isascii() else Octets(value)
    if isinstance(value, Variant):
        return value if _is_plain(value.value) else Variant(value.signature, sized(value.value))
    if isinstance(value, dict):
        return {sized(key): sized(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(sized, value))
    return value


def _is_plain(value: Any) -> bool:
    """Whether a Variant's value needs no look inside: most are numbers and ASCII."""
    return value.isascii() if isinstance(value, str) else not isinstance(value, dict | list | tuple | Variant)
