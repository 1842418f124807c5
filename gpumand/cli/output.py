"""Output on stdout: JSON for programs, text lines for people, through a pager when they do not fit the screen.

Functions import json, shutil, shlex and subprocess themselves: json and shutil alone take a twentieth of the time of
``gpumanctl status``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any

from gpumand.cli.options import GlobalOptions

if TYPE_CHECKING:
    from gpumand.cli.render.text import Text
    from gpumand.cli.render.theme import Theme

DUMB = ("dumb", "unknown")
PIPE_WIDTH = 120
"""Width of bars when stdout is not a terminal, in characters; tables are not cut then."""


def is_screen(stream: IO[str]) -> bool:
    """Whether the stream is a terminal that can move its cursor."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in DUMB


def screen_size() -> tuple[int, int]:
    """Columns and lines: from COLUMNS and LINES, else from the terminal, else 80 by 24."""
    from shutil import get_terminal_size

    return get_terminal_size((80, 24))


def theme_for(stream: IO[str], options: GlobalOptions) -> Theme:
    """The theme that suits a stream: width, colors and characters.

    NO_COLOR (https://no-color.org) turns colors off when it is not empty.
    """
    from gpumand.cli.render.theme import Theme

    terminal = stream.isatty()
    width = max(40, screen_size()[0]) if terminal else PIPE_WIDTH
    encoding = (getattr(stream, "encoding", None) or "ascii").lower().replace("-", "")
    return Theme(
        width=width,
        color=is_screen(stream) and not os.environ.get("NO_COLOR"),
        unicode=encoding.startswith("utf"),
        legend=options.legend,
        fit_to_width=terminal,
    )


def print_json(value: Any) -> None:
    """Print one JSON document: indented on a terminal, else on one line.

    The output is ASCII, so that no escape sequence inside a value reaches the terminal.
    """
    import json

    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(value, indent=indent), flush=True)


def print_lines(lines: Sequence[Text], options: GlobalOptions) -> None:
    """Print text lines: with colors where the terminal has them, through a pager when they do not fit the screen."""
    theme = theme_for(sys.stdout, options)
    text = paint(lines, theme)
    pager = _pager() if options.pager and sys.stdout.isatty() and is_screen(sys.stdout) else []
    if pager and len(lines) >= screen_size()[1]:
        _page(pager, text)
    else:
        write(text)


def paint(lines: Sequence[Text], theme: Theme) -> str:
    """The lines as a string, with escape sequences if the theme has colors."""
    if not theme.color:
        return "".join(f"{line.plain}\n" for line in lines)
    from io import StringIO

    from rich.console import Console

    sink = StringIO()
    console = Console(file=sink, force_terminal=True, color_system="standard", width=10_000, highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True)
    return sink.getvalue()


def write(text: str) -> None:
    """Write to stdout. A character that its encoding lacks becomes "?", instead of an error in the middle."""
    encoding = sys.stdout.encoding or "ascii"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def _pager() -> list[str]:
    """The command line of the pager; empty for none."""
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
    """Show a text in a pager; quitting the pager early is not an error."""
    import subprocess

    # F: exit when the text fits the screen, R: keep colors, S: cut long lines, X: do not clear the screen.
    environment = {"LESS": "FRSX", "LESSCHARSET": "utf-8"} | os.environ
    process = subprocess.Popen(pager, stdin=subprocess.PIPE, env=environment, text=True, errors="replace")
    try:
        process.communicate(text)
    except KeyboardInterrupt:  # Ctrl-C goes to the pager too: wait until it has restored the terminal
        process.wait()
