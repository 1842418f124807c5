"""The Text class gives the same results as that of rich."""

from __future__ import annotations

import rich.cells
import rich.text
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.output import paint
from gpumand.cli.render.text import SINGLE_CELL_CHARACTERS, Text, cell_len
from gpumand.cli.render.theme import Theme

CHARS = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs", "Mn"])
PIECES = st.lists(st.tuples(st.text(CHARS, max_size=8), st.sampled_from(["", "bold", "red", "bold red"])), max_size=6)


def test_single_cell_characters_take_one_cell() -> None:
    assert {rich.cells.cell_len(char) for char in SINGLE_CELL_CHARACTERS} == {1}


@given(st.text(CHARS, max_size=20))
def test_cell_length_is_the_same_as_of_rich(text: str) -> None:
    assert cell_len(text) == rich.cells.cell_len(text)


@given(PIECES, st.integers(0, 40))
def test_truncated_line_is_a_prefix_within_the_width(pieces: list[tuple[str, str]], width: int) -> None:
    line = Text.assemble(*pieces)
    whole = line.plain
    line.truncate(width)
    assert whole.startswith(line.plain)
    assert line.cell_len <= width
    if cell_len(whole) <= width:
        assert line.plain == whole


@given(PIECES)
def test_conversion_to_rich_keeps_characters_and_styles(pieces: list[tuple[str, str]]) -> None:
    converted, expected = Text.assemble(*pieces).to_rich(), rich.text.Text.assemble(*pieces)
    assert converted.plain == expected.plain
    assert [span for span in converted.spans if span.start < span.end] == [
        span for span in expected.spans if span.start < span.end
    ]


@given(PIECES)
def test_rstrip_removes_spaces_across_pieces(pieces: list[tuple[str, str]]) -> None:
    line = Text.assemble(*pieces)
    expected = line.plain.rstrip()
    line.rstrip()
    assert line.plain == expected


def test_copy_and_sum_do_not_change_their_sources() -> None:
    first, second = Text("a", "bold"), Text("b")
    both = first + second
    both.append("c").stylize("reverse")
    copied = first.copy().append("d")
    assert (first.plain, second.plain, both.plain, copied.plain) == ("a", "b", "abc", "ad")
    assert not Text()
    assert not Text("")


def test_styles_are_printed_only_if_the_theme_has_colors() -> None:
    line = Text.assemble("a", ("b", "bold red"), "[bold]c")
    assert paint([line], Theme(color=False)) == "ab[bold]c\n"
    painted = paint([line], Theme(color=True))
    assert painted.startswith("a\x1b[1;31mb\x1b[0m")
    assert "[bold]c" in painted
