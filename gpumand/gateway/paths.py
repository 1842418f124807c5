"""Checks the target of a request: the string that is classified is the string that is sent to the consumer.

HTTP libraries normalise paths in different ways, so a path that two programs could read differently is refused: one of
them would decide that it is harmless, and the other would carry it out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

MAX_TARGET = 8192
"""Maximum length of a request target in characters; the whole head has a limit of its own."""

_ALLOWED = re.compile(r"[\x21-\x7e]+")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_ENCODED_SLASH = re.compile(r"%2f", re.IGNORECASE)
_ENCODED_CONTROL = re.compile(r"%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
_AMBIGUOUS = re.compile(r"%(?:2e|5c)", re.IGNORECASE)
_SLASHES = re.compile(r"/{2,}")


class BadTarget(Exception):
    """The request target is refused; the message says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A checked request target.

    Attributes:
        raw: the target as received, path and query; it is sent to the consumer without any change.
        path: the path for classification: decoded, with single slashes.
        has_encoded_slash: whether the path contains ``%2F``, which only some routes may have.
    """

    raw: str
    path: str
    has_encoded_slash: bool = False

    @property
    def shown(self) -> str:
        """The path for lists and logs: without the query, which may contain secrets."""
        return self.raw.partition("?")[0][:200]


def check_target(method: str, raw: str) -> Target:
    """Check the target of a request line.

    Args:
        method: the method; CONNECT is refused.
        raw: the target exactly as received.

    Raises:
        BadTarget: the target is not a path, or programs could read it in different ways.
    """
    if method == "CONNECT":
        raise BadTarget("CONNECT is not supported")
    if not raw.startswith("/"):
        raise BadTarget("the request target must be a path; proxy requests are not supported")
    if len(raw) > MAX_TARGET or not _ALLOWED.fullmatch(raw) or "#" in raw or "\\" in raw:
        raise BadTarget("the request target is too long or contains characters that must be percent-encoded")
    path = raw.partition("?")[0]
    _check_escapes(path)
    decoded = unquote_to_bytes(path).decode("utf-8", errors="surrogateescape")
    if any(segment.partition(";")[0] in (".", "..") for segment in decoded.split("/")):
        raise BadTarget("the path contains dot segments")
    return Target(raw, _SLASHES.sub("/", decoded), bool(_ENCODED_SLASH.search(path)))


def _check_escapes(path: str) -> None:
    if _BAD_ESCAPE.search(path):
        raise BadTarget("the path contains an invalid percent-encoding")
    if _AMBIGUOUS.search(path) or _ENCODED_CONTROL.search(path):
        raise BadTarget("the path contains an encoded dot, backslash or control character")
