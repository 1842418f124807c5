"""What a consumer's answer says of the work it has: bytes in, a count out; no I/O.

Two kinds of answers: JSON, in which pointers lead to what counts, and the text that Prometheus reads. Hostile like any
other answer: what cannot be trusted counts as not said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpumand.consumers import json_pointer
from gpumand.consumers.answers import UNUSABLE, Answer, complaint, parse, same_kind
from gpumand.domain.consumer import BusyRoute, Work

MOST_JOBS = 1_000_000
"""More than anybody has; a larger figure is cut to it."""

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^\n]*\})?[ \t]+([^ \t]+)(?:[ \t]+-?[0-9]+)?[ \t]*")


def work(route: BusyRoute, answer: Answer) -> Work:
    """What the answer of a busy route says.

    Args:
        route: where to look in it.
        answer: as it came. One that was cut off is no JSON any more; of a text the lines that came count.
    """
    if error := complaint(answer):
        return Work(None, error=f"busy route {error}")
    counts = [*_metrics(route, answer), *_values(route, answer)]
    known = [count for count in counts if count is not None]
    jobs = min(sum(known), MOST_JOBS)
    if not jobs and len(known) < len(counts):
        return Work(None, error="busy route: its answer does not say whether it works")
    return Work(jobs)


def jobs_of(value: Any, equals: bool | str | int | None) -> int | None:
    """How much work a value tells of; None where it tells nothing.

    Args:
        value: what was found.
        equals: the value that means "busy"; None where it was not configured.
    """
    if equals is not None:
        return int(value == equals) if same_kind(value, equals) else None
    if value is None:
        return 0
    if isinstance(value, float) and not math.isfinite(value):  # 1e999 is one
        return None
    if isinstance(value, int | float):  # a flag is 0 or 1
        return math.ceil(min(value, MOST_JOBS)) if value > 0 else 0
    if isinstance(value, list | dict):
        return len(value)
    return int(bool(value)) if isinstance(value, str) else None


def _values(route: BusyRoute, answer: Answer) -> Iterator[int | None]:
    document = UNUSABLE if answer.is_cut or not route.pointers else parse(answer.body)
    for place in route.pointers:
        try:
            found = json_pointer.resolve_all(document, place)
        except (LookupError, json_pointer.PointerInvalid):
            yield None
        else:
            yield from (jobs_of(value, route.equals) for value in found)


def _metrics(route: BusyRoute, answer: Answer) -> Iterator[int | None]:
    if not route.metrics:
        return
    lines = answer.body.decode("utf-8", errors="replace").split("\n")
    sums = _sums(lines[:-1] if answer.is_cut else lines, frozenset(route.metrics))
    cut_in = _last_metric(lines[:-1]) if answer.is_cut else ""  # other labels of it may have been cut off
    for name in route.metrics:
        yield None if name not in sums or (name == cut_in and not sums[name]) else jobs_of(sums[name], None)


def _last_metric(lines: Sequence[str]) -> str:
    """The metric whose samples came last."""
    samples = (_SAMPLE.fullmatch(line.rstrip("\r")) for line in reversed(lines))
    return next((sample[1] for sample in samples if sample is not None), "")


def _sums(lines: Iterable[str], names: frozenset[str]) -> dict[str, float]:
    """Each metric's samples added up, over all their labels."""
    sums: dict[str, float] = {}
    for line in lines:
        sample = _SAMPLE.fullmatch(line.rstrip("\r"))
        if sample is not None and sample[1] in names and (value := _number(sample[2])) is not None:
            sums[sample[1]] = sums.get(sample[1], 0.0) + value
    return sums


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
