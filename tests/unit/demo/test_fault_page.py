"""The page about faults says which of its rows the demonstration causes."""

from __future__ import annotations

from pathlib import Path

from gpumand.demo.faults import FAULTS

PAGE = Path(__file__).parents[3] / "docs/guide/what-happens.md"


def test_the_demonstration_causes_every_fault_of_the_page_but_the_second() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = [line for line in text.splitlines() if line.startswith("| ")]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table[2:]]
    assert "causes each fault but the second" in text
    assert rows[1] == "The memory of a stopped unit stays in use for 5 s."
    assert len(rows) == len(FAULTS) + 1
