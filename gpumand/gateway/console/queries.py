"""Requests to gpumand that change nothing: its history, and the plan of a request."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpumand.client.errors import GpumandError
from gpumand.gateway.console.actions import refused_by
from gpumand.gateway.console.feed import BusSource, plain
from gpumand.gateway.console.limited_view import limited_history, limited_plan, names_in
from gpumand.gateway.console.rights import require_use
from gpumand.gateway.refusals import refused
from gpumand.gateway.requests import Client
from gpumand.gateway.visibility import may_see

MAX_QUERIES = 8
MAX_VALUE = 256
MAX_HISTORIES = 32
"""Maximum number of consumers whose histories a client with a limited key gets in one answer."""

DEFAULT_ENTRIES = 100

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_HISTORY = {"consumer": "s", "since_usec": "t", "until_usec": "t", "limit": "u", "kinds": "as"}
_PLAN = {"device": "s", "priority": "i", "vram_mib": "u", "all": "b"}
"""Parameters of the queries, with their types on the bus."""

Query = Mapping[str, str]


class Queries:
    """Sends queries to gpumand.

    Args:
        source: the connection to gpumand.
    """

    def __init__(self, source: BusSource) -> None:
        self._source = source
        self._running = 0

    async def history(self, query: Query, client: Client) -> dict[str, Any]:
        """Recorded events that the client may see, newest first. Raises Refused."""
        options = {"limit": ("u", DEFAULT_ENTRIES)} | _options(query, _HISTORY)
        if client.consumers is None:
            return {"entries": await self._send(lambda calls: calls.history(options))}
        return {"entries": await self._send(lambda calls: _own_history(calls, options, client))}

    async def plan(self, query: Query, client: Client) -> dict[str, Any]:
        """What a request would do now, and why. Raises Refused."""
        rest = {name: value for name, value in query.items() if name != "consumer"}
        consumer, options = query.get("consumer", ""), _options(rest, _PLAN)
        if len(consumer) > MAX_VALUE or not consumer.isprintable():
            raise _invalid("consumer")
        if client.consumers is None:
            return {"plan": await self._send(lambda calls: calls.plan(consumer, options))}
        if not consumer:
            raise refused(403, "consumer_not_allowed", "This API key may ask about its consumers only: set consumer.")
        require_use(client, consumer)
        return {"plan": await self._send(lambda calls: _own_plan(calls, consumer, options, client))}

    async def _send(self, query: Any) -> Any:
        if self._running >= MAX_QUERIES:
            raise refused(429, "too_many_requests", "Too many requests at a time. Try again later.", 5)
        self._running += 1
        try:
            return await self._source.ask(query)
        except GpumandError as error:
            raise refused_by(error) from None
        finally:
            self._running -= 1


async def _own_history(calls: Any, options: dict[str, tuple[str, Any]], client: Client) -> list[dict[str, Any]]:
    """The history of the consumers that a client may use. Raises Refused."""
    limit = options["limit"][1]
    names = names_in(plain(await calls.status()))
    if "consumer" in options:
        require_use(client, options["consumer"][1])
        wanted = [options["consumer"][1]]
    else:
        wanted = [one for one in names if may_see(client, one)][:MAX_HISTORIES]
    # The limit counts entries of all consumers, so each of them is asked for by itself.
    answers = [plain(await calls.history(options | {"consumer": ("s", name)})) for name in wanted]
    found = [entry for answer in answers for entry in answer]
    found.sort(key=lambda one: one.get("at_usec", 0), reverse=True)
    return limited_history(found[:limit], client, names)


async def _own_plan(calls: Any, consumer: str, options: dict[str, tuple[str, Any]], client: Client) -> dict[str, Any]:
    names = names_in(plain(await calls.status()))
    return limited_plan(plain(await calls.plan(consumer, options)), client, names)


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
