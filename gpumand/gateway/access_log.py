"""The access log: one line in the journal for each request, with all its facts as fields.

Bodies, queries, headers and keys are not in it: a client has the name of its key, or its address. Of a body it has the
name of the model, as the client has written it, so that texts of clients are shortened and control characters escaped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from gpumand.gateway import web
from gpumand.gateway.requests import NAMED_MODEL, Entry
from gpumand.log.journal import FloodGuard
from gpumand.log.message_ids import MessageId, fields

LINES, INTERVAL_SEC = 5000, 30.0
"""Maximum number of lines in an interval. The journal accepts 10,000 messages of a service in 30 s and drops the rest,
among which there could be an error."""

MAX_TEXT = 256
MAX_METHOD = 32
MAX_PATH = 200

log = logging.getLogger(__name__)


class RequestGuard(FloodGuard):
    """Limits the lines; the first one after a gap has the number of missing ones in GPUMAND_HELD_BACK."""

    GUARDED = frozenset({MessageId.GATEWAY_REQUEST.value})


log.addFilter(RequestGuard(LINES, INTERVAL_SEC))


@dataclass(slots=True)
class Visit:
    """One request, as far as it is known.

    Attributes:
        request: the request.
        listener: name of the listener that it came in by.
        client: its client: the peer, until the request is admitted.
        began_at: monotonic seconds.
        entry: its entry in the table of requests; None = the gateway has answered it itself.
        status: status of the answer; 499 if the client left or closed its sending side, and 500 for an internal error.
    """

    request: web.BaseRequest
    listener: str
    client: str
    began_at: float
    entry: Entry | None = None
    status: int = 500


class AccessLog:
    """Writes the lines.

    Args:
        is_on: returns whether the configuration asks for them.
    """

    def __init__(self, is_on: Callable[[], bool]) -> None:
        self._is_on = is_on

    def write(self, visit: Visit, answer_bytes: int) -> None:
        """Write the line of a request that has ended.

        Args:
            visit: the request.
            answer_bytes: size of an answer that the gateway has made itself.
        """
        if self._is_on() and log.isEnabledFor(logging.INFO):
            log_request(facts(visit, answer_bytes))


def log_request(named: dict[str, object]) -> None:
    """Log one line.

    Args:
        named: the facts, by the name of their field.
    """
    log.info("%s", _text(named), extra=fields(MessageId.GATEWAY_REQUEST, **named), stacklevel=2)


def facts(visit: Visit, answer_bytes: int) -> dict[str, object]:
    """The facts of a request by the name of their field."""
    entry, request = visit.entry, visit.request
    duration_sec = asyncio.get_running_loop().time() - visit.began_at
    named: dict[str, object] = {
        "client": printable(visit.client, MAX_TEXT),
        "listener": visit.listener,
        "method": printable(request.method, MAX_METHOD),
        "path": printable(_path(request.raw_path), MAX_PATH),
        "status": visit.status,
        "model": printable(str(request.get(NAMED_MODEL, "")), MAX_TEXT),
        "duration_usec": _usec(duration_sec),
        "sent_bytes": answer_bytes,
    }
    if entry is None:
        return named
    first = None if entry.answered_sec is None else _usec(entry.answered_sec)
    about = {"consumer": entry.consumer, "class": entry.kind.value if entry.consumer else "", "request": entry.number}
    times = {"waited_usec": _usec(entry.waited_sec), "first_byte_usec": first}
    return named | about | times | {"sent_bytes": entry.sent_bytes or answer_bytes}


def _path(target: str) -> str:
    """The path of a request target; of a refused proxy request the address, without a password."""
    path = target.partition("?")[0]
    return path if path.startswith("/") else path.rpartition("@")[2]


def _text(named: dict[str, object]) -> str:
    """The line that people read."""
    about = [f"{name} {named[name]}" for name in ("consumer", "model", "class") if named.get(name)]
    times = [f"{_seconds(named['duration_usec'])} s"]
    times += [f"waited {_seconds(named['waited_usec'])} s"] if named.get("waited_usec") else []
    times += [f"first byte after {_seconds(named['first_byte_usec'])} s"] if named.get("first_byte_usec") else []
    parts = [*about, *times, f"{named['sent_bytes']} bytes"]
    head = f"{named['client']} at {named['listener']}: {named['method']} {named['path']} {named['status']}"
    return f"{head}: {', '.join(parts)}"


def printable(text: str, limit: int) -> str:
    """A text of a client in one line: shortened, and with characters that are not printable escaped as in Python."""
    shown = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "backslashreplace").decode() for one in shown
    )


def _usec(seconds: float) -> int:
    return max(0, round(seconds * 1e6))


def _seconds(usec: object) -> str:
    assert isinstance(usec, int)
    return f"{usec / 1e6:.3f}"
