"""Defines the keys of a busy check, which the gateway reads too: apart from the consumer's, which it does not need."""

from __future__ import annotations

from gpumand.config import validators
from gpumand.config.shared_keys import default_of, equals, headers, seconds
from gpumand.config.table_schema import key, keys_table
from gpumand.config.value_types import Boolean, ListOf, Text
from gpumand.domain.consumer import BusyRoute

ROUTE_DOC = "Path and query of the request, appended to the consumer's url."
HEADERS_DOC = "Additional HTTP headers of this request."
TIMEOUT_DOC = "Timeout of the whole request and response."


@keys_table
class BusyTable:
    """A request that reports whether a consumer is busy."""

    path: str = key(
        Text("path", validators.route_path),
        ROUTE_DOC + " The method is GET. It may be left out if connections is true.",
        default=default_of(BusyRoute, "path"),
    )
    pointers: tuple[str, ...] = key(
        ListOf(Text("JSON pointer", validators.pointer), max_length=16, single=True),
        "Positions in the response that show work: a number above 0, a list or object that is not empty, true, or a "
        "string that is not empty, means busy. The token * stands for every element of a list.",
        default=default_of(BusyRoute, "pointers"),
    )
    equals: bool | str | int | None = key(
        equals(),
        "Value at one of the positions that means busy. Set it if the rules of pointers do not fit.",
        default=default_of(BusyRoute, "equals"),
    )
    metrics: tuple[str, ...] = key(
        ListOf(Text("name of a metric", validators.metric_name), max_length=16, single=True),
        "Prometheus metrics in the response that count running or waiting jobs.",
        default=default_of(BusyRoute, "metrics"),
    )
    headers: tuple[tuple[str, str], ...] = key(headers(), HEADERS_DOC, default=default_of(BusyRoute, "headers"))
    timeout_sec: float = key(seconds(), TIMEOUT_DOC, default=default_of(BusyRoute, "timeout_sec"), unit="s")
    connections: bool = key(
        Boolean(),
        "Client connections as a sign of work: the consumer also counts as busy while clients are connected to the "
        "port of its url. For servers whose responses do not show all of their work. Idle connections that clients "
        "keep open count too.",
        default=default_of(BusyRoute, "connections"),
    )
