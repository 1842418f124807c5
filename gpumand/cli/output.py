"""Where text goes: JSON for programs, lines for people, through a pager when they are many.

What only some outputs need is imported by them: json, and shutil with its archive formats, are a twentieth of a status.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from gpumand.cli.options import GlobalOptions
from gpumand.cli.render.theme import Theme

if TYPE_CHECKING:
    from gpumand.cli.render.text import Text

DUMB = ("dumb", "unknown")
PIPE_WIDTH = 120
"""How wide pictures are where there is no screen; tables are not cut there at all."""


def is_screen(stream: IO[str]) -> bool:
    """Whether somebody looks at it, on a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in DUMB


def screen_size() -> tuple[int, int]:
    """Columns and lines: what COLUMNS and LINES say, else the terminal, else 80 by 24."""
    from shutil import get_terminal_size

    return get_terminal_size((80, 24))


def look_of(stream: IO[str], options: GlobalOptions) -> Theme:
    """What the screen behind a stream can show; NO_COLOR (https://no-color.org) counts when it is not empty."""
    terminal = stream.isatty()
    width = max(40, screen_size()[0]) if terminal else PIPE_WIDTH
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return Theme(
        width=width,
        color=is_screen(stream) and not os.environ.get("NO_COLOR"),
        unicode=encoding.startswith("utf"),
        legend=options.legend,
        elastic=terminal,
    )


def print_json(value: Any) -> None:
    """One document: indented for a terminal, else on one line; ASCII, so that no terminal obeys what is in it."""
    import json

    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(value, indent=indent), flush=True)


def print_lines(lines: Sequence[Text], options: GlobalOptions) -> None:
    """Lines for people, colored where that is wanted, through a pager where they are more than the screen has."""
    look = look_of(sys.stdout, options)
    text = paint(lines, look)
    pager = _pager() if options.pager and sys.stdout.isatty() and is_screen(sys.stdout) else []
    if pager and len(lines) >= screen_size()[1]:
        _page(pager, text)
    else:
        _write(text)


def paint(lines: Sequence[Text], look: Theme) -> str:
    """The lines as a string, with escape sequences where the look has colors."""
    if not look.color:
        return "".join(f"{line.plain}\n" for line in lines)
    from io import StringIO

    from rich.console import Console

    sink = StringIO()
    console = Console(file=sink, force_terminal=True, color_system="standard", width=10_000, highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
    return sink.getvalue()


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _pager() -> list[str]:
    """The command of the pager; empty for none."""
    import shlex
    from shutil import which

    for variable in ("GPUMAND_PAGER", "PAGER"):
        if variable in os.environ:
            command = shlex.split(os.environ[variable])
            break
    else:
        command = ["less"]
    return command if command and command != ["cat"] and which(command[0]) else []


def _page(pager: list[str], text: str) -> None:
    """Show a text in a pager; leaving it early is no error."""
    import subprocess

    environment = {"LESS": "FRSX", "LESSCHARSET": "utf-8"} | os.environ
    process = subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment, text=True, errors="replace")
    try:
        process.communicate(text)
    except KeyboardInterrupt:
        process.wait()
