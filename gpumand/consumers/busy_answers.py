"""Counts the jobs that a consumer's answer reports; this module does no I/O.

Two formats are supported: JSON, in which pointers select the values that count, and the Prometheus text format.
Answers are untrusted input: a value that cannot be trusted counts as missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gpumand.consumers import json_pointer
from gpumand.consumers.answers import UNUSABLE, Answer, parse, same_type, status_error
from gpumand.domain.consumer import BusyReport, BusyRoute

MAX_JOBS = 1_000_000
"""Upper bound of a number of jobs; a larger number is reduced to it."""

_SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(?:\{[^\n]*\})?[ \t]+([^ \t]+)(?:[ \t]+-?[0-9]+)?[ \t]*")


def parse_busy(route: BusyRoute, answer: Answer) -> BusyReport:
    """Interpret the answer of a busy route.

    Args:
        route: positions of the values in the answer.
        answer: the answer. JSON that was cut off is unusable; of a cut-off text, the complete lines count.
    """
    if error := status_error(answer):
        return BusyReport(None, error=f"busy route {error}", status=answer.status)
    counts = [*_metrics(route, answer), *_values(route, answer)]
    known = [count for count in counts if count is not None]
    jobs = min(sum(known), MAX_JOBS)
    if not jobs and len(known) < len(counts):
        # One known value above 0 proves that the consumer is busy. It is idle only if all values are known.
        error = "busy route: the answer does not contain the configured values"
        return BusyReport(None, error=error, status=answer.status)
    return BusyReport(jobs, status=answer.status)


def count_jobs(value: Any, equals: bool | str | int | None) -> int | None:
    """Return how many jobs a value stands for; None if the value is unusable.

    Args:
        value: the value at a configured position.
        equals: the value that means "busy"; None if not configured.
    """
    if equals is not None:
        return int(value == equals) if same_type(value, equals) else None
    if value is None:
        return 0
    if isinstance(value, float) and not math.isfinite(value):  # JSON's 1e999 is parsed as infinity
        return None
    if isinstance(value, int | float):  # includes booleans, which are 0 or 1
        return math.ceil(min(value, MAX_JOBS)) if value > 0 else 0
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
            yield from (count_jobs(value, route.equals) for value in found)


def _metrics(route: BusyRoute, answer: Answer) -> Iterator[int | None]:
    if not route.metrics:
        return
    lines = answer.body.decode("utf-8", errors="replace").split("\n")
    sums = _sums(lines[:-1] if answer.is_cut else lines, frozenset(route.metrics))
    # Samples of the last metric, with other labels, may be in the part that was cut off. A sum of 0 is then unknown.
    cut_metric = _last_metric(lines[:-1]) if answer.is_cut else ""
    for name in route.metrics:
        yield None if name not in sums or (name == cut_metric and not sums[name]) else count_jobs(sums[name], None)


def _last_metric(lines: Sequence[str]) -> str:
    """Return the name of the metric in the last sample."""
    samples = (_SAMPLE.fullmatch(line.rstrip("\r")) for line in reversed(lines))
    return next((sample[1] for sample in samples if sample is not None), "")


def _sums(lines: Iterable[str], names: frozenset[str]) -> dict[str, float]:
    """Return the sum of each metric's samples over all labels."""
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
