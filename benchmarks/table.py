"""Rows and how they are shown."""

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
        ours: our figure, with its unit.
        against: the yardstick and its figure; "" without one.
        ratio: ours divided by the yardstick's; None without one.
        goal: in words; "" without one.
        met: whether it is; None without one.
    """

    what: str
    ours: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None


def percentile(values: Sequence[float], percent: int) -> float:
    """By the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def median(values: Sequence[float]) -> float:
    """Of all."""
    return statistics.median(values)


def show(rows: Sequence[Row]) -> None:
    """Print one table."""
    table = Table("what", "gpumand", "against", "ratio", "goal", "met")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        met = "" if row.met is None else ("yes" if row.met else "NO")
        table.add_row(row.what, row.ours, row.against, ratio, row.goal, met)
    Console(width=150).print(table)
