"""Color themes of the screen: each maps the styles that the screen is drawn with to others.

All of them use the 16 colors of the terminal, so that they work over ssh and follow the colors the user has chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gpumand.cli.render.text import Text

THEMES: Mapping[str, Mapping[str, str]] = {
    "standard": {},
    # Red and green mean the same brightness to many eyes: blue and yellow differ for all of them.
    "blue": {
        "green": "blue",
        "bright_green": "bright_blue",
        "red": "yellow",
        "magenta": "bright_cyan",
        "yellow": "bright_yellow",
    },
    "bright": {
        "green": "bright_green",
        "cyan": "bright_cyan",
        "magenta": "bright_magenta",
        "yellow": "bright_yellow",
        "blue": "bright_blue",
        "red": "bright_red",
        "bright_black": "white",
    },
    "mono": dict.fromkeys(
        (
            "green",
            "cyan",
            "magenta",
            "yellow",
            "blue",
            "red",
            "white",
            "bright_black",
            "bright_green",
            "bright_cyan",
            "bright_magenta",
            "bright_yellow",
            "bright_blue",
            "bright_red",
        ),
        "",
    ),
}
"""Themes by name, the first at the start."""

NAMES = tuple(THEMES)
MONO = "mono"
"""The theme without colors; the parts of bars have letters instead."""


def next_theme(name: str) -> str:
    """The theme after this one."""
    return NAMES[(NAMES.index(name) + 1) % len(NAMES)] if name in NAMES else NAMES[0]


def themed(lines: Sequence[Text], name: str) -> list[Text]:
    """The lines in the colors of a theme."""
    colors = THEMES.get(name) or {}
    return [line.restyled(lambda style: _mapped(style, colors)) for line in lines] if colors else list(lines)


def _mapped(style: str, colors: Mapping[str, str]) -> str:
    return " ".join(filter(None, (colors.get(word, word) for word in style.split())))
