"""Output of the demonstration: on a terminal, text above bars that update in place; elsewhere, text only.

The story fits a terminal of 24 lines together with the bars. With ``verbose`` the steps, checks and signals are printed
instead of it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gpumand.cli.options import GlobalOptions
from gpumand.cli.output import is_screen, theme_for
from gpumand.cli.render.bar import bar, legend, shares
from gpumand.cli.render.format import clean
from gpumand.cli.render.text import Text as Line
from gpumand.cli.render.wrap import wrapped
from gpumand.demo.picture import picture

PAUSE_SEC = 0.9
"""Pause after each step on a terminal, so that a person can read, in seconds."""

STORY_WIDTH = 80


class Screen:
    """Prints the story of the demonstration, or its steps and checks.

    Args:
        verbose: print every step, check and signal, instead of the story.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self.theme = theme_for(sys.stdout, GlobalOptions())
        # The story has the same lines in a log as on a terminal, where it fits together with the bars.
        self._story_theme = replace(self.theme, width=min(self.theme.width, STORY_WIDTH), fit_to_width=True)
        self._is_verbose = verbose
        self._is_terminal = is_screen(sys.stdout)
        self._console = Console(
            file=sys.stdout,
            force_terminal=self._is_terminal,
            color_system="standard" if self.theme.color else None,
            highlight=False,
            width=self.theme.width,
        )
        self._live: Live | None = None
        self._status: Mapping[str, Any] | None = None

    @contextmanager
    def bars(self, *, stay: bool = True) -> Iterator[None]:
        """Show bars below the text while a block runs, if the output is a terminal.

        Args:
            stay: leave the bars on the screen at the end of the block.
        """
        if not self._is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, transient=not stay) as self._live:
            yield
        self._live = None

    def title(self, text: str) -> None:
        """Print an introduction or a final sentence; an empty line separates it from steps."""
        self._print([*wrapped(text, self._story_theme, first=" "), *([Text()] if self._is_verbose else [])])

    def chapter(self, number: int, text: str) -> None:
        """Print the heading of a part of the story."""
        if not self._is_verbose:
            self.heading(number, text)

    def story(self, text: str) -> None:
        """Print what has happened, below the heading of its part."""
        if not self._is_verbose:
            self._print(wrapped(clean(text), self._story_theme, first="    "))

    def heading(self, number: int, text: str) -> None:
        """Print a heading."""
        self._print(wrapped(text, self._story_theme, first=f" {number}  ", style="bold"))

    def fact(self, word: str, text: str) -> None:
        """Print a word and what it stands for."""
        self._print(wrapped(clean(text), self._story_theme, first=f"    {word}"))

    def step(self, number: int, text: str) -> None:
        """Print the title of a step."""
        if self._is_verbose:
            self._print([Text(), Text(f" {number}  {text}", style="bold")])

    def check_passed(self, text: str) -> None:
        """Print a check that passed."""
        if self._is_verbose:
            self._marked("✓", "ok", "green", text)

    def check_failed(self, text: str) -> None:
        """Print a check that failed."""
        self._marked("✗", "FAILED:", "bold red", text)

    def signal(self, text: str) -> None:
        """Print a signal of the daemon; "" prints nothing."""
        if text and self._is_verbose:
            self._marked("»", ">", "cyan", clean(text))

    def details(self, lines: Sequence[Line]) -> None:
        """Print lines that are already formatted."""
        if self._is_verbose:
            self._print([Text("    ").append_text(line.to_rich()) for line in lines])

    def plain(self, text: str = "") -> None:
        """Print a line without wrapping it, for example a command to copy."""
        self._print([Text(text)])

    def log_entry(self, first: str, text: str) -> None:
        """Print a log line; text that does not fit is wrapped and indented."""
        self._print(wrapped(clean(text), self.theme, first=first))

    def show(self, status: Mapping[str, Any]) -> None:
        """Update the bars with a new status."""
        self._status = status
        if self._live is not None:
            self._live.update(Group(*self._rule(), *picture(status, self.theme)), refresh=True)

    def print_device(self, *, is_in_story: bool) -> None:
        """Print the bar of the device once, if the output is not a terminal with bars that update.

        Args:
            is_in_story: print it in the story too, not only with all steps.
        """
        if self._live is None and self._status is not None and (self._is_verbose or is_in_story):
            device = self._status["devices"][0]
            if device.get("total_mib"):
                parts = shares(device, self._status["consumers"])
                theme = self.theme if self._is_verbose else self._story_theme
                self._print([bar(device, parts, theme), *legend(device, parts, theme)])

    async def pause(self, seconds: float = PAUSE_SEC) -> None:
        """Wait on a terminal, so that a person can read."""
        if self._is_terminal:
            await asyncio.sleep(seconds)

    def _rule(self) -> list[Text]:
        """A line between steps and bars; the story needs its place."""
        if not self._is_verbose:
            return []
        return [Text(("─" if self.theme.unicode else "-") * min(self.theme.width - 1, 100), style="bright_black")]

    def _marked(self, mark: str, plain: str, style: str, text: str) -> None:
        shown = mark if self.theme.unicode else plain
        first, *rest = wrapped(text, self.theme, first=" " * (5 + len(shown)))
        line = Text(f"    {shown} ", style=style, no_wrap=True).append_text(Text(first.plain.strip(), style=""))
        line.stylize("default", 5 + len(shown))
        self._print([line, *rest])

    def _print(self, lines: Sequence[Text | Line]) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)
