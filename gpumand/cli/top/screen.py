"""A drawn screen: its lines, and what a click on each place means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top.sections import Section


@dataclass(frozen=True, slots=True)
class Hit:
    """The meaning of a place on the screen.

    Attributes:
        section: the list at that place; None = none.
        row: key of the row; "" for the heading.
        key: the key that a click there is like; "" = none.
    """

    section: Section | None = None
    row: str = ""
    key: str = ""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a line: columns from ``start`` to before ``end``."""

    start: int
    end: int
    hit: Hit


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the screen and its parts that can be clicked."""

    text: Text = field(default_factory=Text)
    spans: tuple[Span, ...] = ()

    @classmethod
    def whole(cls, text: Text, hit: Hit) -> Line:
        """A line that means the same at every place."""
        return cls(text, (Span(0, 10_000, hit),))


def plain(lines: Sequence[Text]) -> list[Line]:
    """Lines without places to click."""
    return [Line(one) for one in lines]


def truncated(line: Line, theme: Theme) -> Line:
    """The line, cut to the width of the screen: the terminal would wrap a longer one and break the layout."""
    if line.text.cell_len <= theme.width:
        return line
    cut = line.text.copy()
    cut.truncate(max(0, theme.width - 1))
    cut.append(theme.ellipsis)
    return Line(cut, line.spans)


def side_by_side(left: Sequence[Line], right: Sequence[Line], left_theme: Theme, right_theme: Theme) -> list[Line]:
    """Two columns with a rule between them; the shorter one is filled with blank lines."""
    rule = " │ " if left_theme.unicode else " | "
    lines = []
    for place in range(max(len(left), len(right))):
        first = truncated(left[place], left_theme) if place < len(left) else Line()
        second = truncated(right[place], right_theme) if place < len(right) else Line()
        start = left_theme.width + len(rule)
        padded = first.text + " " * (left_theme.width - first.text.cell_len)
        text = padded + Text(rule, style="bright_black") + second.text
        spans = [Span(one.start, min(one.end, left_theme.width), one.hit) for one in first.spans]
        spans += [Span(one.start + start, one.end + start, one.hit) for one in second.spans]
        lines.append(Line(text, tuple(spans)))
    return lines


@dataclass(frozen=True, slots=True)
class Screen:
    """The lines of the whole screen, and the first line of the page on it, if one is open."""

    lines: Sequence[Line]
    scroll: int = 0

    @property
    def texts(self) -> list[Text]:
        """The lines as text."""
        return [line.text for line in self.lines]

    def hit(self, column: int, line: int) -> Hit:
        """The meaning of a place; counted from 0."""
        if not 0 <= line < len(self.lines):
            return Hit()
        return next((one.hit for one in self.lines[line].spans if one.start <= column < one.end), Hit())
