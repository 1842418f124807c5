"""Requests to gpumand that change nothing: its history, and the plan of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpumand.client.errors import GpumandError
from gpumand.gateway.console.actions import refused_by
from gpumand.gateway.console.feed import BusSource
from gpumand.gateway.refusals import refused

MAX_QUESTIONS = 8
MAX_VALUE = 256
DEFAULT_ENTRIES = 100

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_HISTORY = {"consumer": "s", "since_usec": "t", "until_usec": "t", "limit": "u", "kinds": "as"}
_PLAN = {"device": "s", "priority": "i", "vram_mib": "u", "all": "b"}
"""Parameters of the queries, with their types on the bus."""

Query = Mapping[str, str]


class Questions:
    """Asks gpumand.

    Args:
        source: the connection to gpumand.
    """

    def __init__(self, source: BusSource) -> None:
        self._source = source
        self._running = 0

    async def history(self, query: Query) -> dict[str, Any]:
        """Recorded events, newest first. Raises Refused."""
        options = {"limit": ("u", DEFAULT_ENTRIES)} | _options(query, _HISTORY)
        return {"entries": await self._ask(lambda calls: calls.history(options))}

    async def plan(self, query: Query) -> dict[str, Any]:
        """What a request would do now, and why. Raises Refused."""
        rest = {name: value for name, value in query.items() if name != "consumer"}
        consumer, options = query.get("consumer", ""), _options(rest, _PLAN)
        if len(consumer) > MAX_VALUE or not consumer.isprintable():
            raise _invalid("consumer")
        return {"plan": await self._ask(lambda calls: calls.plan(consumer, options))}

    async def _ask(self, question: Any) -> Any:
        if self._running >= MAX_QUESTIONS:
            raise refused(429, "too_many_questions", "Too many questions at a time. Try again later.", 5)
        self._running += 1
        try:
            return await self._source.ask(question)
        except GpumandError as error:
            raise refused_by(error) from None
        finally:
            self._running -= 1


def _options(query: Query, types: Mapping[str, str]) -> dict[str, tuple[str, Any]]:
    """D-Bus options of the parameters that are not empty. Raises Refused."""
    found: dict[str, tuple[str, Any]] = {}
    for name, text in query.items():
        if name not in types or len(text) > MAX_VALUE or not text.isprintable():
            raise _invalid(name)
        if text:
            found[name] = types[name], _value(name, text, types[name])
    return found


def _value(name: str, text: str, kind: str) -> Any:
    if kind == "s":
        return text
    if kind == "as":
        return text.split(",")
    if kind == "b":
        if text not in ("true", "false"):
            raise _invalid(name)
        return text == "true"
    if not _INTEGER.fullmatch(text):
        raise _invalid(name)
    low, high = {"i": (-(2**31), 2**31 - 1), "u": (0, 2**32 - 1)}.get(kind, (0, 2**63))
    if not low <= int(text) <= high:
        raise _invalid(name)
    return int(text)


def _invalid(name: str) -> Exception:
    return refused(400, "invalid_arguments", f"The parameter {name[:64]!r} is unknown or invalid.")
