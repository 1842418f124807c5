"""Long sentences over several lines, broken at blanks."""

from __future__ import annotations

import textwrap

from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme


def wrapped(sentence: str, look: Theme, *, first: str = "  ", rest: str = "", style: str = "") -> list[Text]:
    """The sentence as lines of the look's width.

    Args:
        sentence: what to break, already cleaned.
        look: a pipe gets one line, however long.
        first: what stands before the first line.
        rest: what stands before the others; "" = as many blanks as ``first`` is long.
        style: of the sentence.
    """
    indent = rest or " " * len(first)
    room = max(20, look.width - len(indent))
    lines = textwrap.wrap(sentence, room, break_on_hyphens=False) if look.elastic else [sentence]
    starts = [first, *[indent] * (len(lines) - 1)]
    return [Text(start).append(line, style=style) for start, line in zip(starts, lines, strict=True)]
