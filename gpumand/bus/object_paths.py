"""Escapes names for use in object paths, in the same way as systemd.

ASCII letters and digits stay, except for a leading digit. Every other byte of the UTF-8 encoding becomes ``_`` and two
hex digits. The empty string becomes ``_``.
"""

from __future__ import annotations

import re
from functools import lru_cache

_DIGITS = b"0123456789"
_ESCAPED = re.compile(rb"[^A-Za-z0-9]")


@lru_cache(maxsize=1024)
def escape_label(name: str) -> str:
    """Return a name as one element of an object path."""
    if not name:
        return "_"
    label = _ESCAPED.sub(_escape, name.encode())
    # A label does not begin with a digit.
    return (label if label[0] not in _DIGITS else b"_%02x" % label[0] + label[1:]).decode()


def unescape_label(label: str) -> str:
    """Return the name that ``escape_label`` turns into this label. Raises ValueError if there is none."""
    if label == "_":
        return ""
    name = _decode(label)
    if name is None or escape_label(name) != label:
        raise ValueError(f"not an escaped label: {label[:64]!r}")
    return name


def _escape(octet: re.Match[bytes]) -> bytes:
    return b"_%02x" % octet[0][0]


def _decode(label: str) -> str | None:
    """Decode a label, including escapes that ``escape_label`` would not produce; None if it is malformed."""
    head, *parts = label.split("_")
    try:
        octets = b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in parts)
        return (head.encode() + octets).decode()
    except ValueError:
        return None
