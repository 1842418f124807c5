"""Tables whose columns are as wide as their content and that shrink to the width of the screen."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

GAP = 2
MAX_NAME = 32
"""Maximum width that a column keeps so that its truncated names stay different."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        right: whether cells are aligned right, as numbers are.
        drop_priority: the column with the highest value is dropped first on a narrow screen; 0 = never dropped.
        min_width: width in cells that the column may be truncated to; the last such column shrinks first. 0 = never
            truncated.
        is_name: its cells name the rows: they are truncated only as far as they stay different from each other.
    """

    title: str
    right: bool = False
    drop_priority: int = 0
    min_width: int = 0
    is_name: bool = False


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], theme: Theme) -> list[Text]:
    """The lines of a table; an empty list when there are no rows. Columns without content are left out."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [
        max([len(column.title) if theme.legend else 0, *(row[index].cell_len for row in cells)])
        for index, column in enumerate(columns)
    ]
    shown = [index for index, width in enumerate(widths) if any(row[index].cell_len for row in cells)]
    if theme.fit_to_width:
        least = [_least(column, {row[index].plain for row in cells}) for index, column in enumerate(columns)]
        shown = _fit(columns, widths, least, shown, theme.width)
    heading = [[Text(column.title, style="bold") for column in columns]] if theme.legend else []
    return [_line(columns, row, widths, shown, theme) for row in [*heading, *cells]]


def _least(column: Column, texts: Collection[str]) -> int:
    """The width to which a column may be truncated; 0 = never."""
    if not column.is_name:
        return column.min_width
    widths = range(column.min_width, MAX_NAME)
    return next((one for one in widths if len({_cut(text, one) for text in texts}) == len(texts)), MAX_NAME)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1]


def _fit(columns: Sequence[Column], widths: list[int], least: Sequence[int], shown: list[int], width: int) -> list[int]:
    """The indices of the columns that fit into the width. Narrows ``widths`` in place.

    Columns are dropped, by their priority, until the rest fits with truncated cells.
    """
    while True:
        over = sum(widths[index] for index in shown) + GAP * (len(shown) - 1) - width
        room = {index: widths[index] - least[index] for index in shown if least[index]}
        if over <= sum(max(0, spare) for spare in room.values()):
            break
        droppable = [index for index in shown if columns[index].drop_priority]
        if not droppable:
            break
        shown = [index for index in shown if index != max(droppable, key=lambda one: columns[one].drop_priority)]
    for index, spare in reversed(room.items()):
        cut = min(max(0, over), max(0, spare))
        widths[index] -= cut
        over -= cut
    return shown


def _line(columns: Sequence[Column], row: Sequence[Text], widths: list[int], shown: list[int], theme: Theme) -> Text:
    line = Text()
    for place, index in enumerate(shown):
        cell = row[index].copy()
        if cell.cell_len > widths[index]:
            cell.truncate(widths[index] - 1)
            cell.append(theme.ellipsis)
        padding = " " * (widths[index] - cell.cell_len)
        last = place == len(shown) - 1
        line.append_text(Text(padding) + cell if columns[index].right else cell + Text("" if last else padding))
        line.append("" if last else " " * GAP)
    line.rstrip()
    return line
