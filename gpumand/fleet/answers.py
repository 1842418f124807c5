"""Checks what agents of other hosts answer: a host that is broken or hostile must not break its callers."""

from __future__ import annotations

from gpumand.fleet import json_fields
from gpumand.fleet.json_fields import InvalidJson, one_line

MAX_ANSWER_BYTES = 1024 * 1024
MAX_EVICTED = 1024

_TEXTS = {"host": 255, "machine_id": 32, "consumer": 64, "device": 64, "endpoint": 2048, "degraded": 2000}
"""Texts of a grant with their greatest lengths."""


def parse_answer(data: bytes) -> dict[str, object]:
    """Parse a JSON object that an agent has sent. Raises ValueError."""
    return json_fields.parse_object(data.decode(), "the answer", MAX_ANSWER_BYTES)


def parse_grant(answer: dict[str, object]) -> dict[str, object]:
    """Check the grant of a lease, which goes to clients as it is. Unknown keys of newer versions are kept.

    Raises InvalidJson.
    """
    if not json_fields.text(answer, "lease", 128):
        raise InvalidJson("the answer is no grant")
    texts = {key: _line(answer, key, at_most) for key, at_most in _TEXTS.items() if key in answer}
    evicted = json_fields.as_list(answer.get("evicted") or [], "evicted", MAX_EVICTED)
    if not all(isinstance(one, str) for one in evicted):
        raise InvalidJson("evicted is not a list of names")
    checked = {"evicted": [one_line(str(one), 64) for one in evicted], "loaded": json_fields.flag(answer, "loaded")}
    return answer | texts | checked | {"waited_sec": _seconds(answer.get("waited_sec"))}


def parse_end(answer: dict[str, object]) -> str:
    """The reason for which a lease ended; "" if the line names none."""
    reason = answer.get("ended")
    return one_line(reason, 256) if isinstance(reason, str) else ""


def quoted_sec(value: object) -> float | None:
    """Seconds of a number of microseconds in a plan; None for anything that cannot be a time."""
    return value / 1e6 if json_fields.is_integer(value) else None


def _line(answer: dict[str, object], key: str, at_most: int) -> str:
    value = answer[key]
    if value is not None and not isinstance(value, str):
        raise InvalidJson(f"{key} is not a text")
    return one_line(value or "", at_most)


def _seconds(value: object) -> float:
    return value if json_fields.is_number(value) else 0.0
