"""Text as the bus accepts it."""

from __future__ import annotations

MAX_TEXT = 4096


def text(value: str) -> str:
    """Return text that the bus accepts: without NUL and lone surrogates, and at most MAX_TEXT characters."""
    if value.isascii() and "\0" not in value:
        return value[:MAX_TEXT]
    return value[:MAX_TEXT].replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
