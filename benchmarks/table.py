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
        known_miss: the documented limit up to which the goal is missed, in words; "" if the result is beyond that
            limit, or if there is none. See ``known_miss``.
    """

    what: str
    ours: str
    against: str = ""
    ratio: float | None = None
    goal: str = ""
    met: bool | None = None
    known_miss: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the goal is missed by more than docs/performance.md says."""
        return self.met is False and not self.known_miss


def known_miss(value: float, limit: float | None, unit: str = "") -> str:
    """The limit up to which a missed goal is documented, as text with its unit.

    Returns "" if the value is above the limit, or if no limit is documented.
    """
    return f"≤ {limit:g}{unit}" if limit is not None and value <= limit else ""


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
        table.add_row(row.what, row.ours, row.against, ratio, row.goal, _met(row))
    console = Console(width=150)
    console.print(table)
    if any(row.met is False and not row.is_failure for row in rows):
        console.print("Known: docs/performance.md documents that this goal is missed, up to the limit beside it.")


def exit_status(rows: Sequence[Row]) -> int:
    """The exit status of a benchmark: 1 if a goal is missed by more than is documented, else 0."""
    return int(any(row.is_failure for row in rows))


def _met(row: Row) -> str:
    if row.met is None:
        return ""
    known = f" (known {row.known_miss})" if row.known_miss else ""
    return "yes" if row.met else f"NO{known}"
