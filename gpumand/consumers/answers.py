"""What a consumer's answers mean: bytes in, values out; no I/O.

An answer is hostile until checked. Whatever cannot be trusted in it (a number that is none, a key given twice) is
unusable where it stands, and the rest stays readable; what is unusable as a whole says nothing.
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
"""2000-01-01: whoever says to have worked before has no clock, or means something else."""

FUTURE_USEC = 86_400_000_000
"""Clocks of containers and time zones may be off by as much; more is nonsense."""

_MAX_SEC = 1e11
_MAX_DIGITS = 20
_MAX_TIME_LENGTH = 64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: HTTP status.
        reason: its words, as the consumer chose them.
        location: the Location header, "" without one.
        body: the answer, or its beginning.
        is_cut: there was more of it.
    """

    status: int
    reason: str = ""
    location: str = ""
    body: bytes = b""
    is_cut: bool = False


class NoAnswer(Exception):
    """No HTTP answer came; the message is one line.

    Attributes:
        refused: nothing listens there.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(" ".join(message.split()))
        self.refused = refused


class _Unusable:
    """Stands in a document for what cannot be trusted."""


UNUSABLE = _Unusable()


def complaint(answer: Answer) -> str:
    """Why an answer is no success, in one line; "" for any 2xx."""
    if 200 <= answer.status < 300:
        return ""
    said = f"answered {answer.status} {excerpt(answer.reason.encode(), 60)}".rstrip()
    if 300 <= answer.status < 400:
        return f"{said}, a redirect to {excerpt(answer.location.encode()) or 'nowhere'}; redirects are not followed"
    words = excerpt(answer.body)
    return f"{said}: {words}" if words else said


def denial(route: Route, answer: Answer) -> str:
    """Why a 2xx answer of a load or unload route is none, in one line; "" where it does not say so clearly."""
    if not route.success or answer.is_cut:
        return ""
    value = at(parse(answer.body), route.success)
    if value is UNUSABLE or is_loaded(value, route.success_equals) is not False:
        return ""
    return f"answered {answer.status}, but says that it was not done: {excerpt(answer.body)}"


def health(route: HealthRoute, answer: Answer, now_usec: int) -> Health:
    """What the answer of a health route says.

    Args:
        route: where to look in it.
        answer: as it came; one that was cut off says nothing but that somebody is there.
        now_usec: CLOCK_REALTIME in microseconds, to judge ``last_used`` by.
    """
    if error := complaint(answer):
        return Health(reachable=False, error=f"health route {error}")
    if answer.is_cut or not (route.loaded or route.last_used):
        return Health(reachable=True)
    document = parse(answer.body)
    return Health(
        reachable=True,
        loaded=is_loaded(at(document, route.loaded), route.loaded_equals),
        last_used_usec=time_usec(at(document, route.last_used), now_usec),
    )


def parse(body: bytes) -> Any:
    """The JSON document in a body, or UNUSABLE."""
    try:
        return json.loads(
            body.decode("utf-8-sig"), object_pairs_hook=_object, parse_int=_integer, parse_constant=_no_number
        )
    except (ValueError, RecursionError):  # RecursionError: 64 KiB can hold 64 Ki brackets
        return UNUSABLE


def is_loaded(value: Any, equals: bool | str | int | None) -> bool | None:
    """Whether a model is in VRAM, by the value a health route's pointer leads to; None where it does not say.

    Args:
        value: what was found there.
        equals: the value that means "loaded"; None where it was not configured.
    """
    if value is None:
        return False
    if equals is not None:
        return bool(value == equals) if same_kind(value, equals) else None
    if isinstance(value, bool | list | dict | str):
        return bool(value)
    return None


def time_usec(value: Any, now_usec: int) -> int | None:
    """A point in time as CLOCK_REALTIME microseconds; None where it is none that can be true.

    Args:
        value: seconds since 1970, or ISO 8601; without a zone it is UTC. Milliseconds are not guessed: they are an
            absurd number of seconds.
        now_usec: CLOCK_REALTIME in microseconds.
    """
    usec = None
    if isinstance(value, str):
        usec = _from_iso(value)
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _MAX_SEC:  # NaN is not
        usec = round(value * 1_000_000)
    return usec if usec is not None and EARLIEST_USEC <= usec <= now_usec + FUTURE_USEC else None


def excerpt(body: bytes, length: int = 200) -> str:
    """The first characters of an answer for a one-line message: printable, blanks collapsed."""
    text = body[: 8 * length].decode("utf-8", errors="replace")
    words = "".join(char if char.isprintable() else " " for char in text).split()
    return " ".join(words)[:length]


def at(document: Any, place: str) -> Any:
    """What is there; UNUSABLE where nothing is, or where no place was configured."""
    if not place:
        return UNUSABLE
    try:
        return json_pointer.resolve(document, place)
    except (LookupError, json_pointer.PointerInvalid):
        return UNUSABLE


def same_kind(value: Any, equals: bool | str | int) -> bool:
    """In Python True == 1; here a flag is no number."""
    if isinstance(value, bool) or isinstance(equals, bool):
        return isinstance(value, bool) and isinstance(equals, bool)
    return isinstance(value, int | float) if isinstance(equals, int) else isinstance(value, type(equals))


def _from_iso(text: str) -> int | None:
    if len(text) > _MAX_TIME_LENGTH or text.isdigit():  # 20240101 would be a date, 1704067200 nothing
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key given twice means one thing to one parser and another to the next."""
    result = dict(pairs)
    if len(result) < len(pairs):
        result.update((key, UNUSABLE) for key, times in Counter(key for key, _ in pairs).items() if times > 1)
    return result


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _MAX_DIGITS else UNUSABLE


def _no_number(_name: str) -> Any:
    return UNUSABLE
