"""Defines the ``[routes]`` table of a preset: which requests to the server count as use, for the gateway.

A rule is a method and a path, such as ``GET /queue`` or ``POST /api/*``. ``*`` as method matches every method, and WS
matches requests that open a WebSocket; in the path, ``*`` matches any characters. A rule for GET also matches HEAD.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpumand.config.problems import quoted
from gpumand.config.table_schema import key
from gpumand.config.value_types import Choice, InvalidValue, ListOf, Text

_RULE = re.compile(r"(?:\*|[A-Z]{2,10}) /[\x21-\x7e]*")
_MAX_RULES = 128


def route_rule(text: str) -> str:
    """Check a rule: a method in capitals or ``*``, one space, and a path."""
    if not _RULE.fullmatch(text):
        raise InvalidValue(f'{quoted(text)} is not a method and a path: write, for example, "GET /queue"')
    return text


def rules() -> ListOf:
    """Return the value type of a list of rules."""
    return ListOf(Text("method and path", route_rule), max_length=_MAX_RULES)


@dataclass(frozen=True, slots=True)
class RoutesTable:
    """``[routes]`` in a preset: the class of each route, for the gateway. The first list with a match counts."""

    never: tuple[str, ...] = key(
        rules(),
        "Routes that clients of the gateway may not use: they unload or delete models, fetch from the network, or stop "
        "the server.",
        default=(),
    )
    look: tuple[str, ...] = key(
        rules(),
        "Routes that only look: lists, health, progress and files of a web page. They never load a model and need no "
        "lease.",
        default=(),
    )
    starts: tuple[str, ...] = key(
        rules(),
        "Routes of class look that programs use right before a job, such as uploads. They pass without a lease while "
        "the server runs, and load the consumer while it is stopped.",
        default=(),
    )
    job: tuple[str, ...] = key(
        rules(),
        "Routes that are answered before their work is done. Their lease is held until the busy check says that the "
        "server is idle.",
        default=(),
    )
    work: tuple[str, ...] = key(rules(), "Routes that use the model until their answer ends.", default=())
    page: tuple[str, ...] = key(
        rules(), "Pages for browsers, which load the consumer while its server is stopped.", default=()
    )
    other_get: str = key(Choice(("look", "work")), "Class of GET requests for all other paths.", default="work")
    websocket: str = key(
        Choice(("look", "work")),
        "Class of WebSocket connections: look needs no lease, work holds one while messages are exchanged.",
        default="look",
    )
    remember: tuple[str, ...] = key(
        rules(),
        "Routes of class look whose last answer is given while the server is stopped, with GET, or with POST and the "
        "same body of at most 8 KiB.",
        default=(),
    )
    encoded_slashes: tuple[str, ...] = key(
        rules(), "Routes whose path may contain %2F; it is refused in all other paths.", default=()
    )
