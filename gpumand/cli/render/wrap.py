"""Wraps long sentences at spaces."""

from __future__ import annotations

import textwrap

from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme


def wrapped(sentence: str, theme: Theme, *, first: str = "  ", rest: str = "", style: str = "") -> list[Text]:
    """Wrap a sentence to the width of the screen; a pipe gets one line, however long.

    Args:
        sentence: the text, already sanitized with ``clean``.
        theme: of the screen.
        first: prefix of the first line.
        rest: prefix of the other lines; "" = as many spaces as ``first`` has characters.
        style: style of the sentence.
    """
    indent = rest or " " * len(first)
    room = max(20, theme.width - len(indent))
    lines = textwrap.wrap(sentence, room, break_on_hyphens=False) if theme.fit_to_width else [sentence]
    starts = [first, *[indent] * (len(lines) - 1)]
    return [Text(start).append(line, style=style) for start, line in zip(starts, lines, strict=True)]
