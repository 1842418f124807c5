"""Lines in pieces, against rich's own."""

from __future__ import annotations

import rich.cells
import rich.text
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.output import paint
from gpumand.cli.render.text import NARROW, Text, cell_len
from gpumand.cli.render.theme import Theme

CHARS = st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs", "Mn"])
PIECES = st.lists(st.tuples(st.text(CHARS, max_size=8), st.sampled_from(["", "bold", "red", "bold red"])), max_size=6)


def test_what_our_own_lines_are_drawn_with_is_narrow() -> None:
    assert {rich.cells.cell_len(char) for char in NARROW} == {1}


@given(st.text(CHARS, max_size=20))
def test_columns_are_those_that_rich_counts(text: str) -> None:
    assert cell_len(text) == rich.cells.cell_len(text)


@given(PIECES, st.integers(0, 40))
def test_a_cut_line_is_never_wider_and_begins_alike(pieces: list[tuple[str, str]], width: int) -> None:
    line = Text.assemble(*pieces)
    whole = line.plain
    line.truncate(width)
    assert whole.startswith(line.plain)
    assert line.cell_len <= width
    if cell_len(whole) <= width:
        assert line.plain == whole


@given(PIECES)
def test_rich_gets_the_same_characters_with_the_same_styles(pieces: list[tuple[str, str]]) -> None:
    ours, theirs = Text.assemble(*pieces).to_rich(), rich.text.Text.assemble(*pieces)
    assert ours.plain == theirs.plain
    assert [span for span in ours.spans if span.start < span.end] == [
        span for span in theirs.spans if span.start < span.end
    ]


@given(PIECES)
def test_blanks_at_the_end_go_over_all_pieces(pieces: list[tuple[str, str]]) -> None:
    line = Text.assemble(*pieces)
    expected = line.plain.rstrip()
    line.rstrip()
    assert line.plain == expected


def test_a_copy_and_a_sum_change_nothing_else() -> None:
    first, second = Text("a", "bold"), Text("b")
    both = first + second
    both.append("c").stylize("reverse")
    copied = first.copy().append("d")
    assert (first.plain, second.plain, both.plain, copied.plain) == ("a", "b", "abc", "ad")
    assert not Text()
    assert not Text("")


def test_styles_are_painted_by_rich_and_only_where_they_are_wanted() -> None:
    line = Text.assemble("a", ("b", "bold red"), "[bold]c")
    assert paint([line], Theme(color=False)) == "ab[bold]c\n"
    painted = paint([line], Theme(color=True))
    assert painted.startswith("a\x1b[1;31mb\x1b[0m")
    assert "[bold]c" in painted
