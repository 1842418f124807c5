#!/usr/bin/env python3
"""Write the figures of docs/reliability.md anew from what tests/e2e/test_kills.py measured (build/reliability.json).

usage: scripts/reliability.py [FIGURES [PAGE]]

Only what stands between the two marks of the page is replaced; the rest is written by hand.
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
FIGURES, PAGE = ROOT / "build" / "reliability.json", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: written by scripts/reliability.py -->", "<!-- end of figures -->"

Round = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Write the page; the exit status."""
    figures, page = Path(arguments[0]) if arguments else FIGURES, Path(arguments[1]) if arguments[1:] else PAGE
    if not figures.exists():
        print(f"{figures} is not there: make reliability measures it", file=sys.stderr)
        return 1
    text = page.read_text(encoding="utf-8")
    page.write_text(replaced(text, rendered(json.loads(figures.read_text(encoding="utf-8")))), encoding="utf-8")
    return 0


def replaced(page: str, figures: str) -> str:
    """The page with other figures. Raises ValueError where a mark is missing."""
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"the page has no {BEGIN} with an {END} behind it")
    return f"{head}{BEGIN}\n\n{figures}\n\n{END}{tail}"


def rendered(figures: dict[str, Any]) -> str:
    """All figures as Markdown."""
    rounds: list[Round] = figures["rounds"]
    parts = [
        f"Measured on {figures['cores']} cores with a load average of {figures['load']:.1f}; seed {figures['seed']}.",
        table(("what", "figure"), totals(rounds, figures["exposure"])),
        "Where the blows fell:",
        where(rounds),
        "Restart to serving, in seconds:",
        times(rounds),
    ]
    return "\n\n".join(parts)


def totals(rounds: list[Round], exposure: str) -> list[tuple[str, str]]:
    """What became of the daemon, the leases and who waited."""
    living, kept, dead, left, told, served = (
        sum(one[key] for one in rounds) for key in ("living", "kept", "dead", "left", "told", "served")
    )
    kills, starts = sum(one["kills"] for one in rounds), sum(one["kills"] - 1 for one in rounds)
    return [
        ("kills survived", f"{kills} of {kills}"),
        ("of them in the middle of a start", str(starts)),
        ("leases that stood afterwards under the same id, of those whose owner lived", f"{kept} of {living}"),
        ("leases that stood afterwards, of those whose owner had died", f"{left} of {dead}"),
        ("waiting calls that ended with a named error", str(told)),
        ("waiting clients that had their lease in the end", str(served)),
        ("exposure by `systemd-analyze security` (0 is least, 10 most)", exposure),
    ]


def where(rounds: list[Round]) -> str:
    """How many of each blow fell in each moment."""
    blows, moments = seen(rounds, "blow"), seen(rounds, "moment")
    counts = Counter((one["blow"], one["moment"]) for one in rounds)
    lines = [(blow, *(str(counts[blow, moment]) for moment in moments)) for blow in blows]
    return table(("", *(f"in {moment}" for moment in moments)), lines)


def times(rounds: list[Round]) -> str:
    """How long nobody was served, by blow."""
    lines = []
    for blow in seen(rounds, "blow"):
        own = [one for one in rounds if one["blow"] == blow]
        gap, ready = ([one[key] for one in own] for key in ("gap_sec", "ready_sec"))
        lines.append((blow, *spread(gap), *spread(ready)))
    head = ("", "from leaving the bus to the first answer: median", "95 %", "most")
    return table((*head, "from the start of the process to READY: median", "95 %", "most"), lines)


def spread(seconds: Iterable[float]) -> tuple[str, str, str]:
    """Median, 95th percentile (the least that as many are not above) and the most."""
    ordered = sorted(seconds)
    high = ordered[max(0, -(-95 * len(ordered) // 100) - 1)]
    return f"{median(ordered):.2f}", f"{high:.2f}", f"{ordered[-1]:.2f}"


def seen(rounds: list[Round], key: str) -> list[str]:
    """The values of a key, the most frequent first."""
    return [value for value, _ in Counter(sorted(one[key] for one in rounds)).most_common()]


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
