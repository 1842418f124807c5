"""Tables on narrow screens: names stay different from each other for as long as there is room."""

from __future__ import annotations

import pytest

from gpumand.cli.render.table import Column, table
from gpumand.cli.render.theme import Theme

COLUMNS = (
    Column("NAME", min_width=8, is_name=True),
    Column("STATE"),
    Column("HISTORY", drop_priority=1),
    Column("NOTE", min_width=6),
)


def shown(names: list[str], width: int) -> list[str]:
    rows = [(name, "unloaded", "################", "a note of some length") for name in names]
    return [line.plain for line in table(COLUMNS, rows, Theme(width=width, unicode=False, fit_to_width=True))]


@pytest.mark.parametrize("width", [50, 60, 80])
def test_names_with_the_same_beginning_can_be_told_apart(width: int) -> None:
    names = [f"whisper-large-v3-turbo-{number}" for number in (1, 2, 3)]
    lines = shown(names, width)
    assert all(len(line) <= width for line in lines)
    assert [line.split()[0] for line in lines[1:]] == names


def test_names_that_differ_early_leave_their_room_to_other_columns() -> None:
    lines = shown(["comfyui-of-the-third-floor", "ollama-of-the-third-floor"], 50)
    assert "HISTORY" in lines[0]
    assert all(len(line) <= 50 for line in lines)


def test_equal_names_and_very_long_ones_are_cut() -> None:
    assert all(len(line) <= 60 for line in shown(["a" * 64, "a" * 64], 60))
    assert all(len(line) <= 60 for line in shown(["a" * 63 + "1", "a" * 63 + "2"], 60))
