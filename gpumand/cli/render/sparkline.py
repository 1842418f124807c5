"""Histories of readings as a small graph of braille characters, two readings in each."""

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
"""Characters for the heights 0 to 4 on a screen without braille characters; there each reading has one character."""


def sparkline(values: Sequence[int], highest: int, width: int, *, unicode: bool = True) -> str:
    """The newest values as a graph, the newest at the right; it is shorter than ``width`` if there are few values.

    A reading without a value is a gap. A value above 0 always has at least one dot.

    Args:
        values: the history, the newest last.
        highest: the value of full height.
        width: number of characters.
        unicode: whether the screen has braille characters.
    """
    if not unicode:
        return "".join(ASCII[_height(value, highest)] for value in values[-width:])
    heights = [_height(value, highest) for value in values[-2 * width :]]
    if len(heights) % 2:
        heights.insert(0, 0)
    pairs = zip(heights[::2], heights[1::2], strict=True)
    return "".join(chr(BRAILLE + LEFT[left] + RIGHT[right]) for left, right in pairs)


def _height(value: int, highest: int) -> int:
    if value <= 0 or highest <= 0:
        return 0
    return max(1, min(LEVELS, round(value * LEVELS / highest)))
