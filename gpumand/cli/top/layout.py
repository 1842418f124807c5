"""Divides the lines of the screen among the lists and the graphs."""

from __future__ import annotations

from collections.abc import Sequence


def distribute_lines(stages: Sequence[Sequence[int]], room: int) -> list[int]:
    """Divide lines among parts of the screen; a part never gets only its heading.

    In each stage every part, in order, grows up to its limit of that stage, as long as there is room.

    Args:
        stages: the limit of each part, in each stage; the limits of a part never fall.
        room: lines to divide.

    Returns:
        Lines for each part.
    """
    given = [0] * len(stages[-1]) if stages else []
    for limits in stages:
        for index, limit in enumerate(limits):
            more = min(limit - given[index], room)
            if more > 0 and (given[index] + more > 1 or stages[-1][index] == 1):
                given[index] += more
                room -= more
    return given


def visible_part(count: int, height: int, position: int) -> tuple[int, int]:
    """The first row to show and the number of rows, so that the selected row is among them.

    Args:
        count: rows of the list.
        height: lines for the rows; where not all fit, one of them is for the number of the others.
        position: index of the selected row.
    """
    if count <= height:
        return 0, count
    shown = max(1, height - 1)
    return max(0, min(position - (shown - 1) // 2, count - shown)), min(shown, max(0, height))
