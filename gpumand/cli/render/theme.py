"""What the screen before us can show, and what means what on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Theme:
    """A screen.

    Attributes:
        width: columns.
        color: whether colors and attributes may be used.
        unicode: whether its encoding has block characters.
        legend: whether headings are wanted (``--no-legend``).
        elastic: whether long lines may be cut to the width (a terminal); a pipe gets everything.
    """

    width: int = 80
    color: bool = False
    unicode: bool = True
    legend: bool = True
    elastic: bool = True

    @property
    def dot(self) -> str:
        """The mark before a line of state."""
        return "●" if self.unicode else "*"

    @property
    def ellipsis(self) -> str:
        """What stands for the rest of a text."""
        return "…" if self.unicode else "~"


CONSUMER_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
FOREIGN_STYLE = "bright_black"

RESIDENCY_STYLES = {
    "resident": "green",
    "loading": "yellow",
    "unloading": "yellow",
    "failed": "bold red",
    "unknown": "yellow",
    "parked": "cyan",
    "unloaded": "",
}

VERDICT_STYLES = {"grant": "bold green", "wait": "bold yellow", "refuse": "bold red"}


def consumer_style(names: list[str], name: str) -> str:
    """The color of a consumer, the same in every picture of one snapshot."""
    if name not in names:
        return FOREIGN_STYLE
    return CONSUMER_STYLES[names.index(name) % len(CONSUMER_STYLES)]
