"""Draws lines of text as an SVG image of a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO

from rich.console import Console

from gpumand.cli.render.text import Text

TITLE = "gpumanctl top"


def svg_of(lines: Sequence[Text], columns: int) -> str:
    """An SVG image of a terminal with the given number of columns that shows the lines."""
    console = Console(file=StringIO(), record=True, width=columns, force_terminal=True, highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
    return console.export_svg(title=TITLE)
