"""What a client may see: an API key for some consumers learns nothing of the others.

gpumand explains waits and refusals by what is in the way: other consumers, the users that hold them, and their purpose.
A client that may use all consumers gets these texts as they are. For a client with a limited key they are replaced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from gpumand.gateway.refusals import Refusal
from gpumand.gateway.requests import Client

IN_USE = "memory that others use"
"""Why a request waits, for a client that may not see which consumers are in the way."""

ELSEWHERE = "something that concerns other consumers"

_CODES_ABOUT_OTHERS = ("insufficient_vram", "gpu_busy", "gpu_unavailable", "cancelled")


def may_see(client: Client, consumer: str) -> bool:
    """Whether a client may use a consumer, and so may see it."""
    return client.consumers is None or consumer in client.consumers


def reason_for(client: Client, text: str) -> str:
    """Why a request waits, as a client may read it; "" stays empty."""
    return text if client.consumers is None or not text else IN_USE


def text_for(client: Client, text: str, consumers: Iterable[str], otherwise: str = ELSEWHERE) -> str:
    """A text about a consumer of the client, unless it names a consumer that the client may not see.

    Args:
        client: the client.
        text: the text.
        consumers: the names of all consumers.
        otherwise: what the client gets instead.
    """
    hidden = [one for one in consumers if not may_see(client, one)]
    return otherwise if any(_names(text, one) for one in hidden) else text


def refusal_for(client: Client, refusal: Refusal, consumer: str, consumers: Iterable[str]) -> Refusal:
    """A refusal by gpumand, as a client may read it.

    Args:
        client: the client.
        refusal: the refusal of its request.
        consumer: the consumer of the request.
        consumers: the names of all consumers.
    """
    if client.consumers is None:
        return refusal
    text = f"{consumer} cannot be used now: it needs {IN_USE}. Try again later."
    if refusal.code not in _CODES_ABOUT_OTHERS:
        text = text_for(client, refusal.message, consumers, text)
    return replace(refusal, message=text)


def _names(text: str, consumer: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9._-]){re.escape(consumer)}(?![A-Za-z0-9_-]|\.[A-Za-z0-9])", text) is not None
