"""Columns: as wide as their content, in the order given, dropped from the least wanted when a screen is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme

GAP = 2


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        right: figures stand right.
        wanted: 0 is never dropped; of the others the highest goes first.
        least: columns it may be cut down to, from the last such column to the first; 0 = never cut.
    """

    title: str
    right: bool = False
    wanted: int = 0
    least: int = 0


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]], look: Theme) -> list[Text]:
    """The lines of a table; empty when there are no rows."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    if not cells:
        return []
    widths = [
        max([len(column.title) if look.legend else 0, *(row[index].cell_len for row in cells)])
        for index, column in enumerate(columns)
    ]
    shown = [index for index, width in enumerate(widths) if any(row[index].cell_len for row in cells)]
    if look.elastic:
        shown = _fit(columns, widths, shown, look.width)
    heading = [[Text(column.title, style="bold") for column in columns]] if look.legend else []
    return [_line(columns, row, widths, shown, look) for row in [*heading, *cells]]


def _fit(columns: Sequence[Column], widths: list[int], shown: list[int], width: int) -> list[int]:
    """Which columns fit: first the cuttable one is cut, then the least wanted go."""
    while True:
        over = sum(widths[index] for index in shown) + GAP * (len(shown) - 1) - width
        room = {index: widths[index] - columns[index].least for index in shown if columns[index].least}
        if over <= sum(max(0, spare) for spare in room.values()):
            break
        droppable = [index for index in shown if columns[index].wanted]
        if not droppable:
            break
        shown = [index for index in shown if index != max(droppable, key=lambda one: columns[one].wanted)]
    for index, spare in reversed(room.items()):
        cut = min(max(0, over), max(0, spare))
        widths[index] -= cut
        over -= cut
    return shown


def _line(columns: Sequence[Column], row: Sequence[Text], widths: list[int], shown: list[int], look: Theme) -> Text:
    line = Text()
    for place, index in enumerate(shown):
        cell = row[index].copy()
        if cell.cell_len > widths[index]:
            cell.truncate(widths[index] - 1)
            cell.append(look.ellipsis)
        padding = " " * (widths[index] - cell.cell_len)
        last = place == len(shown) - 1
        line.append_text(Text(padding) + cell if columns[index].right else cell + Text("" if last else padding))
        line.append("" if last else " " * GAP)
    line.rstrip()
    return line
