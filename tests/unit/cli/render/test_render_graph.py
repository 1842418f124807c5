"""Graphs of braille characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.render.graph import graph


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0, 100], "⢸"),
        ([100, 100], "⣿"),
        ([25, 50], "⣠"),
        ([100], "⢸"),
        ([-1, 100], "⢸"),
        ([500, 500], "⣿"),
        ([1, 0], "⡀"),
        ([], " "),
    ],
)
def test_character_has_two_readings(values: list[int], line: str) -> None:
    assert graph(values, 100, 1, 1, span=2) == [line]


def test_short_history_is_at_the_right() -> None:
    assert graph([100] * 30, 100, 10, 1) == ["     ⣿⣿⣿⣿⣿"]
    assert graph([100] * 30, 100, 10, 1, unicode=False) == ["     #####"]


def test_readings_fill_a_wide_graph_and_the_highest_of_several_counts_in_a_narrow_one() -> None:
    assert graph([0, 100], 100, 6, 1, span=2) == ["   ⣿⣿⣿"]
    assert graph([0, 0, 100, 0], 100, 1, 1, span=4) == ["⢸"]


def test_several_lines_share_the_height() -> None:
    assert graph([50, 100], 100, 1, 2, span=2) == ["⢸", "⣿"]
    assert graph([50, 100], 100, 2, 2, unicode=False, span=2) == [" #", "##"]


def test_graph_without_a_scale_is_blank() -> None:
    assert graph([5, 5], 0, 4, 1) == ["    "]


@given(st.lists(st.integers(-1, 10**9), max_size=80), st.integers(0, 10**9), st.integers(1, 300), st.integers(1, 70))
def test_graph_has_its_size(values: list[int], highest: int, width: int, height: int) -> None:
    for unicode in (True, False):
        lines = graph(values, highest, width, height, unicode=unicode)
        assert [len(line) for line in lines] == [width] * height
