"""The capabilities of the screen and the styles of states."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Theme:
    """What the screen can show.

    Attributes:
        width: number of columns.
        color: whether colors and attributes may be used.
        unicode: whether its encoding has block characters; otherwise output is ASCII.
        legend: whether tables have headings (``--no-legend`` turns them off).
        letters: whether the parts of bars are letters although there are colors.
        fit_to_width: whether long lines are truncated to the width, as on a terminal; a pipe gets the whole text.
    """

    width: int = 80
    color: bool = False
    unicode: bool = True
    legend: bool = True
    fit_to_width: bool = True
    letters: bool = False

    @property
    def has_shades(self) -> bool:
        """Whether the parts of a bar differ by colors and blocks; otherwise each has a letter."""
        return self.color and self.unicode and not self.letters

    @property
    def dot(self) -> str:
        """The mark before a summary line."""
        return "●" if self.unicode else "*"

    @property
    def ellipsis(self) -> str:
        """The mark for truncated text."""
        return "…" if self.unicode else "~"


CONSUMER_STYLES = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta", "bright_green")
FOREIGN_STYLE = "bright_black"
RESERVATION_STYLE = "bright_yellow"

RESIDENCY_STYLES = {
    "resident": "green",
    "loading": "yellow",
    "unloading": "yellow",
    "failed": "bold red",
    "unknown": "yellow",
    "parked": "cyan",
    "idle": "cyan",
    "unloaded": "",
}

VERDICT_STYLES = {"grant": "bold green", "wait": "bold yellow", "refuse": "bold red"}


def consumer_style(names: list[str], name: str) -> str:
    """The color of a consumer, the same in every bar of one status.

    Args:
        names: names of all consumers, in the order of the configuration.
        name: the consumer.
    """
    if name not in names:
        return FOREIGN_STYLE
    return CONSUMER_STYLES[names.index(name) % len(CONSUMER_STYLES)]
