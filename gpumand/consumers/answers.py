"""Interprets HTTP answers of consumers; this module does no I/O.

Answers are untrusted input. A value that cannot be trusted (NaN, a repeated key) is replaced by ``UNUSABLE``, and the
rest of the document stays readable. If the whole document is unusable, the result is "unknown".
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from gpumand.consumers import json_pointer
from gpumand.domain.consumer import Health, HealthRoute, Route

EARLIEST_USEC = 946_684_800_000_000
"""2000-01-01, the earliest credible time of last use. An earlier one comes from a wrong clock or another unit."""

FUTURE_USEC = 86_400_000_000
"""One day: how far a time of last use may lie in the future, since clocks and time zones of containers may be wrong."""

_MAX_SEC = 1e11
_MAX_DIGITS = 20
_MAX_TIME_LENGTH = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer of a consumer.

    Attributes:
        status: HTTP status code.
        reason: reason phrase of the status line, chosen by the consumer.
        location: the Location header, "" without one.
        body: the body, or its beginning.
        is_cut: True if the body was longer and only its beginning was read.
    """

    status: int
    reason: str = ""
    location: str = ""
    body: bytes = b""
    is_cut: bool = False


class NoAnswer(Exception):
    """A request got no complete HTTP answer; the message is one line.

    Attributes:
        refused: the connection was refused, so nothing listens on the port.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(" ".join(message.split()))
        self.refused = refused


class _Unusable:
    """Type of ``UNUSABLE``, which replaces values in a document that cannot be trusted."""


UNUSABLE = _Unusable()


def status_error(answer: Answer) -> str:
    """Return the error that the status of an answer reports, in one line; "" for any 2xx status."""
    if 200 <= answer.status < 300:
        return ""
    message = f"answered {answer.status} {excerpt(answer.reason.encode(), 60)}".rstrip()
    if 300 <= answer.status < 400:
        location = excerpt(answer.location.encode()) or "an unknown location"
        return f"{message}, a redirect to {location}; redirects are not followed"
    body = excerpt(answer.body)
    return f"{message}: {body}" if body else message


def reported_failure(route: Route, answer: Answer) -> str:
    """Return the failure that a 2xx answer of a load or unload route reports in its body, in one line, or "".

    Only an answer that clearly reports a failure counts; VRAM readings decide the other cases.
    """
    if not route.success or answer.is_cut:
        return ""
    value = value_at(parse(answer.body), route.success)
    if value is UNUSABLE or is_loaded(value, route.success_equals) is not False:
        return ""
    return f"answered {answer.status}, but reports a failure: {excerpt(answer.body)}"


def parse_health(route: HealthRoute, answer: Answer, now_usec: int) -> Health:
    """Interpret the answer of a health route.

    Args:
        route: positions of the values in the answer.
        answer: the answer; one that was cut off only shows that the consumer is reachable.
        now_usec: CLOCK_REALTIME in microseconds, to check that ``last_used`` is credible.
    """
    if error := status_error(answer):
        return Health(reachable=False, error=f"health route {error}")
    if answer.is_cut or not (route.loaded or route.last_used):
        return Health(reachable=True)
    document = parse(answer.body)
    return Health(
        reachable=True,
        loaded=is_loaded(value_at(document, route.loaded), route.loaded_equals),
        last_used_usec=time_usec(value_at(document, route.last_used), now_usec),
    )


def parse(body: bytes) -> Any:
    """Parse the JSON document in a body; return UNUSABLE if there is none."""
    try:
        return json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_reject_constant
        )
    except (ValueError, RecursionError):  # RecursionError: a body of 64 KiB may consist of 65536 opening brackets
        return UNUSABLE


def is_loaded(value: Any, equals: bool | str | int | None) -> bool | None:
    """Return whether a value of a health answer means that the model is in VRAM; None if the value is unusable.

    Args:
        value: the value at the configured position.
        equals: the value that means "loaded"; None if not configured.
    """
    if value is None:
        return False
    if equals is not None:
        return bool(value == equals) if same_type(value, equals) else None
    if isinstance(value, bool | list | dict | str):
        return bool(value)
    return None


def time_usec(value: Any, now_usec: int) -> int | None:
    """Convert a point in time to CLOCK_REALTIME microseconds; None if it is not a credible time.

    Args:
        value: seconds since 1970, or ISO 8601, which is UTC without a zone. Milliseconds are not recognised: as
            seconds, they lie far in the future and are refused.
        now_usec: CLOCK_REALTIME in microseconds.
    """
    usec = None
    if isinstance(value, str):
        usec = _parse_iso(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MAX_SEC:
        # The comparison is also false for NaN. The upper bound keeps the multiplication from overflowing to infinity.
        usec = round(value * 1_000_000)
    return usec if usec is not None and EARLIEST_USEC <= usec <= now_usec + FUTURE_USEC else None


def excerpt(body: bytes, length: int = 200) -> str:
    """Return the first characters of an answer for a one-line message: printable, with blanks collapsed."""
    text = body[: 8 * length].decode("utf-8", errors="replace")
    words = "".join(char if char.isprintable() else " " for char in text).split()
    return " ".join(words)[:length]


def value_at(document: Any, pointer: str) -> Any:
    """Return the value at a JSON pointer; UNUSABLE if there is none, or if the pointer is ""."""
    if not pointer:
        return UNUSABLE
    try:
        return json_pointer.resolve(document, pointer)
    except (LookupError, json_pointer.PointerInvalid):
        return UNUSABLE


def same_type(value: Any, equals: bool | str | int) -> bool:
    """Return whether two JSON values have the same type and may be compared; a boolean is not a number."""
    # In Python, True == 1 and bool is a subclass of int.
    if isinstance(value, bool) or isinstance(equals, bool):
        return isinstance(value, bool) and isinstance(equals, bool)
    return isinstance(value, int | float) if isinstance(equals, int) else isinstance(value, type(equals))


def _parse_iso(text: str) -> int | None:
    # fromisoformat would read "20240101" as a date, although a string of digits more probably means seconds.
    if len(text) > _MAX_TIME_LENGTH or text.isdigit():
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object in which every repeated key is UNUSABLE."""
    # Parsers disagree on which of two equal keys counts, so neither value can be trusted.
    result = dict(pairs)
    if len(result) < len(pairs):
        result.update((key, UNUSABLE) for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return result


def _integer(digits: str) -> Any:
    # int() raises ValueError above 4300 digits, which would make the whole document unusable.
    return int(digits) if len(digits) <= _MAX_DIGITS else UNUSABLE


def _reject_constant(_name: str) -> Any:
    return UNUSABLE
