"""A strict parser of the Prometheus text format 0.0.4, which accepts only what the format allows."""

from __future__ import annotations

import re
from collections import defaultdict

METRIC = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|\Z)')
_SAMPLE = re.compile(rf"({METRIC})(?:\{{(.*)\}})? (\S+)")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d+)?(e[+-]?\d+)?|Inf)|NaN")
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "gauge": ("",), "counter": ("",)}

Labels = tuple[tuple[str, str], ...]
Samples = dict[tuple[str, Labels], float]


def parsed(page: str) -> Samples:
    """Return all samples by name and labels. Raises AssertionError if the page violates the format."""
    assert page.endswith("\n"), "the last line must end with a line feed"
    samples: Samples = {}
    helped: set[str] = set()
    kinds: dict[str, str] = {}
    current = ""
    for line in page[:-1].split("\n"):
        if line.startswith("# HELP "):
            name = _help(line, helped)
        elif line.startswith("# TYPE "):
            name = current = _type(line, kinds)
            assert name in helped, f"no HELP before {line!r}"
        else:
            key, value = _sample(line)
            assert key[0] in {current + suffix for suffix in SUFFIXES[kinds[current]]}, f"{line!r} is not of {current}"
            assert key not in samples, f"repeated sample: {line!r}"
            samples[key] = value
    assert helped == kinds.keys()
    _check_histograms(samples, kinds)
    _check_counters(samples, kinds)
    return samples


def _help(line: str, helped: set[str]) -> str:
    match = re.fullmatch(rf"# HELP ({METRIC}) ((?:[^\\\n]|\\[\\n])+)", line)
    assert match, f"invalid HELP line: {line!r}"
    assert match[1] not in helped, f"a second HELP: {line!r}"
    helped.add(match[1])
    return match[1]


def _type(line: str, kinds: dict[str, str]) -> str:
    match = re.fullmatch(rf"# TYPE ({METRIC}) (counter|gauge|histogram)", line)
    assert match, f"invalid TYPE line: {line!r}"
    assert match[1] not in kinds, f"a second TYPE: {line!r}"
    kinds[match[1]] = match[2]
    return match[1]


def _sample(line: str) -> tuple[tuple[str, Labels], float]:
    match = _SAMPLE.fullmatch(line)
    assert match, f"invalid sample: {line!r}"
    assert _NUMBER.fullmatch(match[3]), f"invalid number: {line!r}"
    return (match[1], _labels(match[2] or "", line)), float(match[3])


def _labels(inside: str, line: str) -> Labels:
    labels: dict[str, str] = {}
    position = 0
    while position < len(inside):
        match = _LABEL.match(inside, position)
        assert match, f"invalid labels: {line!r}"
        assert match[1] not in labels, f"repeated label: {line!r}"
        labels[match[1]] = re.sub(r"\\(.)", lambda found: {"n": "\n"}.get(found[1], found[1]), match[2])
        position = match.end()
    return tuple(sorted(labels.items()))


def _check_histograms(samples: Samples, kinds: dict[str, str]) -> None:
    for name in (name for name, kind in kinds.items() if kind == "histogram"):
        buckets: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
        for (sample, labels), value in samples.items():
            if sample == f"{name}_bucket":
                bound = float(dict(labels)["le"])
                buckets[tuple(pair for pair in labels if pair[0] != "le")].append((bound, value))
        for labels, found in buckets.items():
            bounds, counts = [bound for bound, _ in found], [count for _, count in found]
            assert bounds == sorted(set(bounds)), f"{name}: bounds are not ascending"
            assert bounds[-1] == float("inf"), f"{name}: no +Inf"
            assert counts == sorted(counts), f"{name}: counts decrease"
            assert samples[(f"{name}_count", labels)] == counts[-1]
            assert (f"{name}_sum", labels) in samples


def _check_counters(samples: Samples, kinds: dict[str, str]) -> None:
    for name in (name for name, kind in kinds.items() if kind == "counter"):
        assert name.endswith("_total"), name
        values = [value for (sample, _), value in samples.items() if sample == name]
        assert all(value >= 0 for value in values), name
