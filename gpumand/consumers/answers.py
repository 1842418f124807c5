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
from gpumand.consumers.answer_events import Event, last_event
from gpumand.domain.consumer import Health, HealthRoute, Route
from gpumand.domain.partial_load import PartialLoad, partial_load

EARLIEST_USEC = 946_684_800_000_000
"""2000-01-01, the earliest credible time of last use. An earlier one comes from a wrong clock or another unit."""

FUTURE_USEC = 86_400_000_000
"""One day: how far a time of last use may lie in the future, since clocks and time zones of containers may be wrong."""

ERROR_EVENT = "error"
"""Type of the server-sent event that reports a failure, whatever its text."""

_REASONS = ("error", "message", "reason", "detail", "exit_code", "exit_status")
"""Keys beside a value that says "failed" which give the cause."""

_MAX_NAMES = 5
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
        is_cut: True if the body was longer, and something after its beginning is missing.
        tail: the end of such a body, if it was read to its end; b"" otherwise.
    """

    status: int
    reason: str = ""
    location: str = ""
    body: bytes = b""
    is_cut: bool = False
    tail: bytes = b""


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


def reported_failure(route: Route, answer: Answer, *, needs_proof: bool = False) -> str:
    """Return the failure that a 2xx answer of a load or unload route reports in its body, in one line, or "".

    The last event of a stream decides; an answer in one piece is its own last event.

    Args:
        route: positions of the result and of the error text.
        answer: the answer.
        needs_proof: an answer without a usable result counts as a failure. An unload is verified by VRAM readings, so
            that only a clear failure counts.
    """
    has_pointers = bool(route.success or route.error)
    if answer.is_cut and not answer.tail:
        failure = "the answer is too long to be read to its end" if has_pointers else ""
    else:
        event = last_event(answer.body, answer.tail, lambda text: parse(text) is not UNUSABLE)
        failure = _event_failure(route, event, needs_proof=needs_proof)
    return f"answered {answer.status}, but {failure}" if failure else ""


def _event_failure(route: Route, event: Event, *, needs_proof: bool) -> str:
    """Return the failure that the last event of an answer reports, or ""."""
    has_pointers = bool(route.success or route.error)
    document = parse(event.data) if has_pointers or needs_proof else UNUSABLE
    if not has_pointers and _is_plain_failure(document):
        return f"reports a failure: {excerpt(event.data)}"
    error = _text(value_at(document, route.error))
    if event.name == ERROR_EVENT or error:
        return f"reports a failure: {error or excerpt(event.data)}"
    value = value_at(document, route.success)
    is_success = is_loaded(value, route.success_equals)
    if is_success is False:
        return f"reports a failure: {excerpt(event.data)}"
    if route.success and is_success is None and (needs_proof or not event.is_only):
        kind = "answer" if event.is_only else "last event"
        return f"its {kind} has no usable value at {route.success}: {excerpt(event.data) or 'it is empty'}"
    return ""


def _is_plain_failure(document: Any) -> bool:
    """Return whether an answer to a load reports a failure by the names that servers use, if no position is configured.

    The readings verify an unload, so that its answer need not be guessed.
    """
    error = document.get("error") if isinstance(document, dict) else None
    is_error = isinstance(error, str | dict) and bool(_text(error))
    return is_error or (isinstance(document, dict) and document.get("success") is False)


def parse_health(route: HealthRoute, answer: Answer, now_usec: int) -> Health:
    """Interpret the answer of a health route.

    Args:
        route: positions of the values in the answer.
        answer: the answer; one that was cut off only shows that the consumer is reachable.
        now_usec: CLOCK_REALTIME in microseconds, to check that ``last_used`` is credible.
    """
    document = UNUSABLE if answer.is_cut else parse(answer.body)
    failed = _reported_load_failure(route, document)
    error = status_error(answer)
    if answer.status in route.unloaded_status:
        return Health(True, loaded=False, status=answer.status, failed=failed, answer=error)
    if error:
        error = f"health route {error}"
        return Health(False, error=error, status=answer.status, failed=failed, answer=error)
    sleeping = not route.sleeping_path and is_sleeping(route, document)
    loaded = _is_model_loaded(route, value_at(document, route.loaded))
    return Health(
        reachable=True,
        loaded=False if sleeping else loaded,
        loading=loaded is not True and _is_true(document, route.loading, route.loading_equals),
        last_used_usec=time_usec(value_at(document, route.last_used), now_usec),
        status=answer.status,
        failed=failed,
        sleeping=sleeping,
        partial=_partial_load(route, document) if loaded is True else None,
        answer=_described(route, answer, document),
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


def is_sleeping(route: HealthRoute, document: Any) -> bool:
    """Return whether a document says that the server has put its model to sleep."""
    return _is_true(document, route.sleeping, route.sleeping_equals)


def _partial_load(route: HealthRoute, document: Any) -> PartialLoad | None:
    """Return how much of the model is in VRAM, where the answer says that it is not all of it."""
    sizes = (value_at(document, pointer) if pointer else None for pointer in (route.size, route.size_vram))
    size, in_vram = (one if type(one) is int else None for one in sizes)
    return partial_load(size, in_vram)


def _is_model_loaded(route: HealthRoute, value: Any) -> bool | None:
    if route.unloaded_equals is None:
        return is_loaded(value, route.loaded_equals)
    is_unloaded = value is None or is_loaded(value, route.unloaded_equals)
    return None if is_unloaded is None else not is_unloaded


def _is_true(document: Any, pointer: str, equals: bool | str | int | None) -> bool:
    return is_loaded(value_at(document, pointer), equals) is True


def _text(value: Any) -> str:
    """Return an error text at the position of a pointer, in one line; "" if the value says that there is none."""
    if isinstance(value, dict):
        return _cause(value) or (_json(value) if value else "")
    if isinstance(value, bool | int | float | list):
        return _json(value) if value else ""
    return excerpt(value.encode(errors="replace")) if isinstance(value, str) else ""


def _reported_load_failure(route: HealthRoute, document: Any) -> str:
    """Return one line if a health answer says that the last load failed, with the cause that it gives; else ""."""
    if not _is_true(document, route.failed, route.failed_equals):
        return ""
    value, parent = value_at(document, route.failed), _parent_of(document, route.failed)
    cause = _cause(parent) if isinstance(parent, dict) else ""
    if not cause and not isinstance(value, bool):
        cause = _text(value)
    return f"the server reports a failed load: {cause}" if cause else "the server reports a failed load"


def _parent_of(document: Any, pointer: str) -> Any:
    parent = pointer.rpartition("/")[0]
    return value_at(document, parent) if parent else document


def _cause(entry: dict[str, Any]) -> str:
    """Return the members of an object that give the cause of a failure, in one line."""
    found = [(key, entry.get(key)) for key in _REASONS]
    numbers = [f"{key} {value}" for key, value in found if isinstance(value, int) and not isinstance(value, bool)]
    texts = [value for _, value in found if isinstance(value, str) and value]
    return excerpt(", ".join((*texts, *numbers)).encode(errors="replace"))


def _described(route: HealthRoute, answer: Answer, document: Any) -> str:
    """Return what a 2xx answer of a health route says of the model, in one line."""
    if not route.loaded:
        return f"answered {answer.status}"
    if answer.is_cut:
        return f"answered {answer.status}, but the answer is too long to be read"
    value = value_at(document, route.loaded)
    if value is UNUSABLE:
        return f"answered {answer.status}, without a value at {route.loaded}: {excerpt(answer.body)}"
    listed = f"; the list has {names}" if value is None and (names := _listed(document, route.loaded)) else ""
    return f"answered {answer.status}, {route.loaded} is {_json(value)}{listed}"


def _listed(document: Any, pointer: str) -> str:
    """Return the first names in a list without the one that a pointer selects, which may be spelled otherwise there."""
    try:
        names = json_pointer.choices(document, pointer)
    except (LookupError, json_pointer.PointerInvalid):
        return ""
    return one_line(", ".join(names[:_MAX_NAMES]) + (", …" if len(names) > _MAX_NAMES else ""))


def _json(value: Any) -> str:
    """Return a value of a document as JSON in one line, cut to the length of an excerpt."""
    try:
        return excerpt(json.dumps(value, default=lambda _: None, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):
        return "unusable"


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
    return one_line(body[: 8 * length].decode("utf-8", errors="replace"), length)


def one_line(text: str, length: int = 200) -> str:
    """Return text of a server or of a library as one line for a message."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:length]


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
