"""The table of results: its rows, and statistics for them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        ours: gpumand's result, with its unit.
        against: the reference and its result; "" without one.
        ratio: gpumand's result divided by the reference's; None without one.
        goal: the goal in words; "" without one.
        met: whether the goal is met; None without one.
    """

    what: str
    ours: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def median(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def show(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    table = Table("measurement", "gpumand", "reference", "ratio", "goal", "met")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else ("yes" if row.met else "NO")
        table.add_row(row.what, row.ours, row.against, ratio, row.goal, met)
    Console(width=150).print(table)
