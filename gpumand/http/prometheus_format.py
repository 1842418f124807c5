"""Writes metrics in the Prometheus text format, version 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gpumand.bus.wire_text import text

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_SEC = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

Number = int | float
Labels = Mapping[str, str]
Samples = Iterable[tuple[Labels, Number | None]]


@dataclass(slots=True)
class Histogram:
    """A histogram of durations in seconds.

    Attributes:
        counts: number of durations per bucket of ``BOUNDS_SEC``; the last element counts those above the last bound.
        sum_sec: sum of all durations in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_SEC) + 1))
    sum_sec: float = 0.0

    def record(self, seconds: float) -> None:
        """Add a duration."""
        self.counts[bisect_left(BOUNDS_SEC, seconds)] += 1
        self.sum_sec += seconds


def gauge(name: str, meaning: str, samples: Samples) -> Iterator[str]:
    """Return the lines of a gauge; a value of None is unknown and has no sample."""
    return _family(name, "gauge", meaning, samples)


def counter(name: str, meaning: str, value: int) -> Iterator[str]:
    """Return the lines of a counter."""
    return _family(name, "counter", meaning, [({}, value)])


def counters(name: str, meaning: str, samples: Samples) -> Iterator[str]:
    """Return the lines of a counter with labels."""
    return _family(name, "counter", meaning, samples)


def histogram(name: str, meaning: str, label: str, histograms: Mapping[str, Histogram]) -> Iterator[str]:
    """Return the lines of a histogram for each value of the label."""
    yield from _head(name, "histogram", meaning)
    for value, one in histograms.items():
        total = 0
        for bound, count in zip((*BOUNDS_SEC, float("inf")), one.counts, strict=True):
            total += count
            yield _sample(f"{name}_bucket", {label: value, "le": _bound(bound)}, total)
        yield _sample(f"{name}_sum", {label: value}, one.sum_sec)
        yield _sample(f"{name}_count", {label: value}, total)


def _family(name: str, kind: str, meaning: str, samples: Samples) -> Iterator[str]:
    yield from _head(name, kind, meaning)
    for labels, value in samples:
        if value is not None:
            yield _sample(name, labels, value)


def _head(name: str, kind: str, meaning: str) -> Iterator[str]:
    yield f"# HELP {name} {_escaped(meaning)}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Labels, value: Number) -> str:
    inside = ",".join(f'{key}="{_quoted(label)}"' for key, label in labels.items())
    return f"{name}{{{inside}}} {value!r}" if inside else f"{name} {value!r}"


def _bound(seconds: float) -> str:
    return "+Inf" if seconds == float("inf") else repr(seconds)


def _escaped(value: str) -> str:
    return text(value).replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(label: str) -> str:
    # The format allows a carriage return, but some parsers take it for the end of the line.
    return _escaped(label.replace("\r", " ")).replace('"', '\\"')
