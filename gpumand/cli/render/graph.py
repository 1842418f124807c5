"""Histories of readings as graphs of several lines: braille characters, or ASCII where the screen has none."""

from __future__ import annotations

from collections.abc import Sequence

UNKNOWN = -1
"""The value of a reading in a history of GetStatus that had no value."""

BRAILLE = 0x2800
LEFT = (0x00, 0x40, 0x44, 0x46, 0x47)
RIGHT = (0x00, 0x80, 0xA0, 0xB0, 0xB8)
"""Dots of the left and of the right column of a braille character, filled from below to each of the heights 0 to 4."""

LEVELS = 4
ASCII = " .-=#"
"""Characters for the heights 0 to 4 on a screen without braille characters."""

SPAN = 60
"""Readings from the left to the right edge: as many as gpumand keeps. A newer history begins further right."""


def graph(
    values: Sequence[int], highest: int, width: int, height: int, *, unicode: bool = True, span: int = SPAN
) -> list[str]:
    """The history as an area graph that fills its width; the newest reading is at the right.

    Args:
        values: the readings, the newest last; UNKNOWN is a gap. A value above 0 always has at least one dot.
        highest: the value of full height.
        width, height: characters of each line, and number of lines.
        unicode: whether the screen has braille characters, which show two readings side by side.
        span: readings that the width stands for.
    """
    columns = width * 2 if unicode else width
    levels = [_level(one, highest, height * LEVELS) for one in spread(values, columns, span)]
    return [_row(levels, (height - 1 - place) * LEVELS, unicode=unicode) for place in range(height)]


def spread(values: Sequence[int], columns: int, span: int = SPAN) -> list[int]:
    """One value for each column: a reading is repeated over several, or the highest of several readings is taken."""
    shown = [UNKNOWN] * (span - len(values)) + list(values[-span:])
    spread_values = []
    for column in range(columns):
        first = column * span // columns
        spread_values.append(max(shown[first : max(first + 1, (column + 1) * span // columns)]))
    return spread_values


def _level(value: int, highest: int, levels: int) -> int:
    if value <= 0 or highest <= 0:
        return 0
    return max(1, min(levels, round(value * levels / highest)))


def _row(levels: Sequence[int], below: int, *, unicode: bool) -> str:
    """One line of the graph; ``below`` is the number of levels of the lines below it."""
    heights = [max(0, min(LEVELS, level - below)) for level in levels]
    if not unicode:
        return "".join(ASCII[height] for height in heights)
    pairs = zip(heights[::2], heights[1::2], strict=True)
    return "".join(chr(BRAILLE + LEFT[left] + RIGHT[right]) if left or right else " " for left, right in pairs)
