"""Object path labels, escaped as systemd does it.

ASCII letters and digits stay, except for a digit in front; every other byte of the UTF-8 form becomes ``_`` and two
hex digits; the empty string becomes ``_`` alone.
"""

from __future__ import annotations

import string

_LETTERS = string.ascii_letters.encode()
_DIGITS = string.digits.encode()


def escape_label(name: str) -> str:
    """Make one element of an object path out of any name."""
    if not name:
        return "_"
    octets = enumerate(name.encode())
    return "".join(chr(octet) if _stays(octet, position) else f"_{octet:02x}" for position, octet in octets)


def unescape_label(label: str) -> str:
    """Undo ``escape_label``. Raises ValueError for a label that it does not make."""
    if label == "_":
        return ""
    name = _decode(label)
    if name is None or escape_label(name) != label:
        raise ValueError(f"not an escaped label: {label[:64]!r}")
    return name


def _stays(octet: int, position: int) -> bool:
    return octet in _LETTERS or (octet in _DIGITS and position > 0)


def _decode(label: str) -> str | None:
    """What the label stands for, if anything; lenient about letters that need no escape."""
    head, *parts = label.split("_")
    try:
        octets = b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts)
        return (head.encode() + octets).decode()
    except ValueError:
        return None
