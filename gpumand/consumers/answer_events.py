"""Splits an answer into its events: server-sent events, JSON lines, or one JSON document; this module does no I/O.

Servers that report the progress of a load answer with a stream of events, and only the last one says how it ended. The
format is recognised by its shape, because some servers name a wrong content type: a body with ``data:`` fields is a
stream of server-sent events, several lines that each are a JSON document are JSON lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

STREAM_TYPES = frozenset(
    {
        "text/event-stream",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/jsonlines",
        "application/json-seq",
        "application/stream+json",
    }
)
"""Content types of answers that consist of several events, which must be read to their end."""

_LINE_END = re.compile(rb"\r\n|\r|\n")
_FIELD = re.compile(rb"(?:data|event|id|retry)?:|data$|event$")
_DONE = b"[DONE]"
"""End mark of the OpenAI protocol, which is no event of its own."""

_RECORD_SEPARATOR = b"\x1e"
"""Begins every document of ``application/json-seq`` (RFC 7464)."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of an answer.

    Attributes:
        data: its text, usually a JSON document.
        name: its type in a stream of server-sent events, "" without one.
        is_only: the answer is no stream of several events.
    """

    data: bytes
    name: str = ""
    is_only: bool = False


def last_event(body: bytes, tail: bytes, is_json: Callable[[bytes], bool]) -> Event:
    """Return the last event of an answer; for an answer that is no stream, the answer itself.

    Args:
        body: the answer, or its beginning.
        tail: the end of an answer that is longer than ``body``; b"" if ``body`` is the whole answer.
        is_json: returns whether a text is a JSON document.
    """
    if not tail and is_json(body):
        return Event(body, is_only=True)
    # The first line of the end may lack its beginning.
    lines = _LINE_END.split(tail)[1:] if tail else _LINE_END.split(body.removeprefix(b"\xef\xbb\xbf"))
    if _is_event_stream(_LINE_END.split(body[:4096])) or (tail and _is_event_stream(lines)):
        return _last_sent_event(lines)
    documents = [one for line in lines if (one := line.strip(b" \t" + _RECORD_SEPARATOR)) and one != _DONE]
    if documents and (tail or len(documents) > 1) and is_json(documents[-1]):
        return Event(documents[-1])
    return Event(body if not tail else documents[-1] if documents else b"", is_only=not tail)


def _is_event_stream(lines: list[bytes]) -> bool:
    """Whether the first line that is not empty is a field or a comment of server-sent events."""
    first = next((line for line in lines if line.strip()), b"")
    return _FIELD.match(first.removeprefix(b"\xef\xbb\xbf")) is not None


def _last_sent_event(lines: list[bytes]) -> Event:
    last = Event(b"")
    for event in _sent_events(lines):
        if event.data.strip() not in (b"", _DONE):
            last = event
    return last


def _sent_events(lines: list[bytes]) -> Iterator[Event]:
    """Return the events of a stream; one without the empty line at its end counts, as some servers leave it out."""
    name, data = "", list[bytes]()
    for line in (*lines, b""):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            yield Event(b"\n".join(data), name)
            name, data = "", []
        elif field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", errors="replace").strip()
