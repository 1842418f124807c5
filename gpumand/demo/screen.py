"""Output of the demonstration: on a terminal, text above bars that update in place; elsewhere, text only."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
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


class Screen:
    """Prints the steps and checks of the demonstration; a context manager."""

    def __init__(self) -> None:
        self.theme = theme_for(sys.stdout, GlobalOptions())
        self._is_terminal = is_screen(sys.stdout)
        self._console = Console(
            file=sys.stdout,
            force_terminal=self._is_terminal,
            color_system="standard" if self.theme.color else None,
            highlight=False,
            width=self.theme.width,
        )
        self._live = Live(console=self._console, auto_refresh=False, transient=False) if self._is_terminal else None
        self._status: Mapping[str, Any] | None = None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def title(self, text: str) -> None:
        """Print an introduction or a final sentence."""
        self._print([*wrapped(text, self.theme, first=" "), Text()])

    def step(self, number: int, text: str) -> None:
        """Print the title of a step."""
        self._print([Text(), Text(f" {number}  {text}", style="bold")])

    def check_passed(self, text: str) -> None:
        """Print a check that passed."""
        self._marked("✓", "ok", "green", text)

    def check_failed(self, text: str) -> None:
        """Print a check that failed."""
        self._marked("✗", "FAILED:", "bold red", text)

    def signal(self, text: str) -> None:
        """Print a signal of the daemon; "" prints nothing."""
        if text:
            self._marked("»", ">", "cyan", clean(text))

    def lines(self, lines: Sequence[Line]) -> None:
        """Print lines that are already formatted."""
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
            rule = Text(("─" if self.theme.unicode else "-") * min(self.theme.width - 1, 100), style="bright_black")
            self._live.update(Group(rule, *picture(status, self.theme)), refresh=True)

    def print_device(self) -> None:
        """Print the bar of the device once, if the output is not a terminal with bars that update."""
        if self._live is None and self._status is not None:
            device = self._status["devices"][0]
            if device.get("total_mib"):
                parts = shares(device, self._status["consumers"])
                self._print([bar(device, parts, self.theme), *legend(device, parts, self.theme)])

    async def pause(self, seconds: float = PAUSE_SEC) -> None:
        """Wait on a terminal, so that a person can read."""
        if self._is_terminal:
            await asyncio.sleep(seconds)

    def _marked(self, mark: str, plain: str, style: str, text: str) -> None:
        shown = mark if self.theme.unicode else plain
        first, *rest = wrapped(text, self.theme, first=" " * (5 + len(shown)))
        line = Text(f"    {shown} ", style=style, no_wrap=True).append_text(Text(first.plain.strip(), style=""))
        line.stylize("default", 5 + len(shown))
        self._print([line, *rest])

    def _print(self, lines: Sequence[Text | Line]) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)
