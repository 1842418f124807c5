"""Classifies requests by the rules of a preset (see ``gpumand.config.routes_schema``); the first match counts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from gpumand.config.presets import preset
from gpumand.config.routes_schema import RoutesTable


class RouteClass(StrEnum):
    """What a request means for its consumer."""

    WORK = "work"
    """It uses the model until its answer ends: it needs a lease, and loads the consumer."""

    JOB = "job"
    """Like work, but the work goes on after the answer, until the server is idle."""

    PAGE = "page"
    """A page for a browser: it needs no lease, and loads the consumer if its server does not run."""

    LOOK = "look"
    """A list, a health check, progress, a file: it needs no lease and never loads the consumer."""

    NEVER = "never"
    """It changes what only gpumand or an administrator may change: it is refused."""

    @property
    def needs_lease(self) -> bool:
        """Whether the consumer works on such a request, so that it needs a lease."""
        return self in (RouteClass.WORK, RouteClass.JOB)


WEBSOCKET = "WS"
"""Method of a rule that matches requests which open a WebSocket."""

_ORDER = (RouteClass.NEVER, RouteClass.LOOK, RouteClass.JOB, RouteClass.WORK, RouteClass.PAGE)


@dataclass(frozen=True, slots=True)
class Rule:
    """A method and a pattern of paths; it is specific if it does not cover all paths or only the root."""

    method: str
    pattern: re.Pattern[str]
    is_specific: bool = True

    def matches(self, method: str, path: str) -> bool:
        """Whether the rule covers a request; HEAD counts as GET."""
        wanted = "GET" if method == "HEAD" else method
        return self.method in ("*", wanted) and self.pattern.fullmatch(path) is not None


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Convert rules such as "GET /history*", which the configuration has checked."""
    return tuple(_rule(text) for text in texts)


def _rule(text: str) -> Rule:
    method, _, path = text.partition(" ")
    # A server that accepts a trailing slash must not be reached by it past a rule.
    pattern = ".*".join(map(re.escape, path.split("*")))
    compiled = re.compile(pattern if path.endswith(("/", "*")) else pattern + "/?", re.DOTALL)
    return Rule(method, compiled, is_specific=path not in ("/*", "/"))


REMEMBERED_METHODS = ("GET", "POST")
"""Methods of requests that only read. APIs use POST for reads whose question is a document, as Ollama's /api/show."""


@dataclass(frozen=True, slots=True)
class RouteRules:
    """The rules of one service.

    Attributes:
        by_class: rules in the order in which they are tried.
        other_get: class of GET requests that no rule covers.
        websocket: class of WebSockets that no rule covers.
        remember: routes whose last answer is kept for the time when the server is stopped.
        encoded_slashes: routes whose path may contain %2F.
        starting: routes of class look that are work while the server is stopped.
        allowed: routes of class never that the configuration permits; they pass like class look.
    """

    by_class: Sequence[tuple[RouteClass, tuple[Rule, ...]]] = ()
    other_get: RouteClass = RouteClass.WORK
    websocket: RouteClass = RouteClass.LOOK
    remember: tuple[Rule, ...] = ()
    encoded_slashes: tuple[Rule, ...] = ()
    allowed: tuple[Rule, ...] = ()
    starting: tuple[Rule, ...] = ()

    def classify(self, method: str, path: str, *, accepts_html: bool = False) -> RouteClass:
        """Determine the class of a request.

        Args:
            method: HTTP method, or ``WEBSOCKET`` for a request that opens a WebSocket.
            path: decoded path (``Target.path``).
            accepts_html: a browser asks for a page.
        """
        found = next((kind for kind, rules in self.by_class if _covers(rules, method, path)), None)
        if found is RouteClass.NEVER:
            return RouteClass.LOOK if _covers(self.allowed, method, path) else RouteClass.NEVER
        if found is RouteClass.PAGE and not accepts_html:
            return RouteClass.LOOK
        return found or self._by_method(method, path, accepts_html)

    def _by_method(self, method: str, path: str, accepts_html: bool) -> RouteClass:
        """The class of a request that no rule covers."""
        if method == WEBSOCKET:
            # A WebSocket is opened by a GET request, so what may not be read may not be opened either.
            return RouteClass.NEVER if self._is_never("GET", path) else self.websocket
        if method == "OPTIONS":
            return RouteClass.LOOK
        if method not in ("GET", "HEAD"):
            return RouteClass.WORK
        return RouteClass.PAGE if accepts_html else self.other_get

    def names(self, method: str, path: str) -> bool:
        """Whether a rule that is not for all paths covers a request."""
        return any(_covers((one for one in rules if one.is_specific), method, path) for _, rules in self.by_class)

    def remembers(self, method: str, path: str) -> bool:
        """Whether the last answer to a request is kept."""
        return method in REMEMBERED_METHODS and _covers(self.remember, method, path)

    def starts(self, method: str, path: str) -> bool:
        """Whether a request of class look is work while the server is stopped."""
        return _covers(self.starting, method, path)

    def allows_encoded_slash(self, method: str, path: str) -> bool:
        """Whether a path may contain %2F."""
        return _covers(self.encoded_slashes, method, path)

    def _is_never(self, method: str, path: str) -> bool:
        return any(kind is RouteClass.NEVER and _covers(rules, method, path) for kind, rules in self.by_class)


def _covers(rules: Iterable[Rule], method: str, path: str) -> bool:
    return any(rule.matches(method, path) for rule in rules)


def rules_of(table: RoutesTable, *, websocket: str = "", allow: Sequence[str] = ()) -> RouteRules:
    """Convert the routes of a preset.

    Args:
        table: the preset's table.
        websocket: class of WebSockets from the configuration; "" = as in the preset.
        allow: routes of class never that the configuration permits.
    """
    return RouteRules(
        tuple((kind, parse_rules(getattr(table, kind.value))) for kind in _ORDER),
        RouteClass(table.other_get),
        RouteClass(websocket or table.websocket),
        parse_rules(table.remember),
        parse_rules(table.encoded_slashes),
        parse_rules(allow),
        parse_rules(table.starts),
    )


@cache
def preset_routes(name: str) -> RoutesTable:
    """The routes of a preset; a table without rules for "". Reads a file (blocks) once."""
    return preset(name).routes if name else RoutesTable()
