"""What is shown: on a terminal a picture that moves below a growing text, elsewhere the text alone."""

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
from gpumand.cli.output import is_screen, look_of
from gpumand.cli.render.bar import bar, key, shares
from gpumand.cli.render.format import clean
from gpumand.cli.render.text import Text as Line
from gpumand.cli.render.wrap import wrapped
from gpumand.demo.picture import picture

GONE_QUIET_SEC = 0.9
"""How long a person is given to read, on a terminal."""


class Screen:
    """Shows the story; a context manager."""

    def __init__(self) -> None:
        self.look = look_of(sys.stdout, GlobalOptions())
        self._moving = is_screen(sys.stdout)
        self._console = Console(
            file=sys.stdout,
            force_terminal=self._moving,
            color_system="standard" if self.look.color else None,
            highlight=False,
            width=self.look.width,
        )
        self._live = Live(console=self._console, auto_refresh=False, transient=False) if self._moving else None
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
        """What this is."""
        self._print([*wrapped(text, self.look, first=" "), Text()])

    def step(self, number: int, text: str) -> None:
        """A new chapter."""
        self._print([Text(), Text(f" {number}  {text}", style="bold")])

    def good(self, text: str) -> None:
        """Something that was checked and is so."""
        self._marked("✓", "ok", "green", text)

    def bad(self, text: str) -> None:
        """Something that was checked and is not so."""
        self._marked("✗", "NOT SO:", "bold red", text)

    def signal(self, text: str) -> None:
        """Something that the daemon announced."""
        if text:
            self._marked("»", ">", "cyan", clean(text))

    def lines(self, lines: Sequence[Line]) -> None:
        """Lines made elsewhere."""
        self._print([Text("    ").append_text(line.to_rich()) for line in lines])

    def plain(self, text: str = "") -> None:
        """A line as it is, for example a command to copy."""
        self._print([Text(text)])

    def entry(self, first: str, text: str) -> None:
        """A line of a log; what does not fit goes below, as far in."""
        self._print(wrapped(clean(text), self.look, first=first))

    def show(self, status: Mapping[str, Any]) -> None:
        """Move the picture."""
        self._status = status
        if self._live is not None:
            rule = Text(("─" if self.look.unicode else "-") * min(self.look.width - 1, 100), style="bright_black")
            self._live.update(Group(rule, *picture(status, self.look)), refresh=True)

    def still(self) -> None:
        """Where nothing moves: the picture as it is now."""
        if self._live is None and self._status is not None:
            device = self._status["devices"][0]
            if device.get("total_mib"):
                parts = shares(device, self._status["consumers"])
                self._print([bar(device, parts, self.look), *key(device, parts, self.look)])

    async def pause(self, seconds: float = GONE_QUIET_SEC) -> None:
        """Let a person read."""
        if self._moving:
            await asyncio.sleep(seconds)

    def _marked(self, mark: str, plain: str, style: str, text: str) -> None:
        shown = mark if self.look.unicode else plain
        first, *rest = wrapped(text, self.look, first=" " * (5 + len(shown)))
        line = Text(f"    {shown} ", style=style, no_wrap=True).append_text(Text(first.plain.strip(), style=""))
        line.stylize("default", 5 + len(shown))
        self._print([line, *rest])

    def _print(self, lines: Sequence[Text | Line]) -> None:
        for line in lines:
            self._console.print(line, soft_wrap=True)
