"""Recognises the API key of a request, as the client libraries of the different APIs send it."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping, Sequence

from gpumand.config.gateway_keys import GatewayKey, hash_of

MAX_SECRET = 512
PLACEHOLDER = "gpumand"
"""What ``gpumanctl connect`` writes where a program insists on a key. Without a key of this text it counts as none."""

KEY_HEADERS = frozenset({"authorization", "x-api-key"})
"""Headers that carry a key. They are removed before a request is passed on, if they carry one of the gateway."""


def presented(headers: Mapping[str, str]) -> str:
    """The key that a request presents: a Bearer token, the password of Basic, or x-api-key; "" without one."""
    scheme, _, value = headers.get("Authorization", "").strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value[:MAX_SECRET]
    if scheme.lower() == "basic" and value:
        return _password(value)[:MAX_SECRET]
    return headers.get("X-Api-Key", "").strip()[:MAX_SECRET]


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def find(keys: Sequence[GatewayKey], secret: str) -> GatewayKey | None:
    """The key that was presented; None if it is none of them. All are compared, each in constant time."""
    wanted = hash_of(secret)
    matching = [one for one in keys if hmac.compare_digest(one.sha256, wanted)]
    return matching[0] if matching else None
