#!/usr/bin/env python3
"""Update the measurements in docs/reliability.md from build/reliability.json, which tests/e2e/test_kills.py writes.

usage: scripts/reliability.py [MEASUREMENTS [PAGE]]

Only the text between the two markers of the page is replaced; the rest is written manually.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASUREMENTS, PAGE = ROOT / "build" / "reliability.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- measurements: written by scripts/reliability.py -->", "<!-- end of measurements -->"

Round = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Update the page. Returns the exit status."""
    measurements, page = (
        Path(arguments[0]) if arguments else MEASUREMENTS,
        Path(arguments[1]) if arguments[1:] else PAGE,
    )
    if not measurements.exists():
        print(f"{measurements} does not exist. Run: make reliability", file=sys.stderr)
        return 1
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, rendered(json.loads(measurements.read_text(encoding="utf-8")))), encoding="utf-8")
    return 0


def replaced(page: str, measurements: str) -> str:
    """Return the page with new measurements. Raises ValueError if a marker is missing."""
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no {BEGIN} followed by {END}")
    return f"{head}{BEGIN}\n\n{measurements}\n\n{END}{tail}"


def rendered(report: dict[str, Any]) -> str:
    """Return all measurements as Markdown."""
    rounds: list[Round] = report["rounds"]
    parts = [
        f"Measured on {report['cores']} cores with a load average of {report['load']:.1f}; seed {report['seed']}.",
        table(("measurement", "result"), totals(rounds, report["exposure"])),
        "Kills by method and situation:",
        situations(rounds),
        "Time until the daemon serves again, in seconds:",
        times(rounds),
    ]
    return "\n\n".join(parts)


def totals(rounds: list[Round], exposure: str) -> list[tuple[str, str]]:
    """Return the totals for the daemon, the leases and the waiting requests."""
    living, kept, dead, left, refused, served = (
        sum(one[key] for one in rounds) for key in ("living", "kept", "dead", "left", "refused", "served")
    )
    kills, starts = sum(one["kills"] for one in rounds), sum(one["kills"] - 1 for one in rounds)
    return [
        ("kills survived", f"{kills} of {kills}"),
        ("of these, kills during a start", str(starts)),
        ("leases with a live owner that survived under the same id", f"{kept} of {living}"),
        ("leases of dead owners that remained", f"{left} of {dead}"),
        ("waiting calls that ended with a named error", str(refused)),
        ("waiting clients that got their lease in the end", str(served)),
        ("exposure by `systemd-analyze security` (0 is least, 10 most)", exposure),
    ]


def situations(rounds: list[Round]) -> str:
    """Return a table with the number of kills by method and situation."""
    methods, names = values(rounds, "method"), values(rounds, "situation")
    counts = Counter((one["method"], one["situation"]) for one in rounds)
    lines = [(method, *(str(counts[method, name]) for name in names)) for method in methods]
    return table(("", *(f"during {name}" for name in names)), lines)


def times(rounds: list[Round]) -> str:
    """Return a table with the time until the daemon serves again, by kill method."""
    lines = []
    for method in values(rounds, "method"):
        own = [one for one in rounds if one["method"] == method]
        gap, ready = ([one[key] for one in own] for key in ("gap_sec", "ready_sec"))
        lines.append((method, *spread(gap), *spread(ready)))
    head = ("", "from leaving the bus to the first answer: median", "95 %", "maximum")
    return table((*head, "from the start of the process to READY: median", "95 %", "maximum"), lines)


def spread(seconds: Iterable[float]) -> tuple[str, str, str]:
    """Return the median, the 95th percentile (nearest rank) and the maximum."""
    ordered = sorted(seconds)
    high = ordered[max(0, -(-95 * len(ordered) // 100) - 1)]
    return f"{median(ordered):.2f}", f"{high:.2f}", f"{ordered[-1]:.2f}"


def values(rounds: list[Round], key: str) -> list[str]:
    """Return the values of a key, the most frequent first."""
    return [value for value, _ in Counter(sorted(one[key] for one in rounds)).most_common()]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
