"""Lines of text with styles: a small replacement for rich's ``Text`` that does not import rich.

Importing rich's Text takes half as long as importing click, and its console twice that; output to a pipe needs neither.
Where there are colors, rich prints the lines: a Text is one of its renderables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.text

SINGLE_CELL_CHARACTERS = frozenset([*"●█░▒▓■…→↑↓▸·│─°▚▕▏━╌", *map(chr, range(0x2800, 0x2900))])
"""Characters outside ASCII that gpumanctl draws with. Each takes one cell, so measuring them does not need rich."""


class Text:
    """A line, or a part of one.

    Args:
        plain: the characters.
        style: a style of rich, for example "bold red"; "" for none.
    """

    __slots__ = ("_pieces",)

    def __init__(self, plain: str = "", style: str = "") -> None:
        self._pieces: list[tuple[str, str]] = [(plain, style)] if plain else []

    @classmethod
    def assemble(cls, *parts: str | tuple[str, str] | Text) -> Text:
        """A line made of parts: strings, pairs of string and style, and other lines."""
        line = cls()
        for part in parts:
            if isinstance(part, Text):
                line.append_text(part)
            elif isinstance(part, str):
                line.append(part)
            else:
                line.append(*part)
        return line

    @property
    def plain(self) -> str:
        """The characters without styles."""
        return "".join(piece for piece, _ in self._pieces)

    @property
    def cell_len(self) -> int:
        """Number of terminal cells that it takes."""
        return cell_len(self.plain)

    def append(self, plain: str, style: str = "") -> Text:
        """Append characters; returns the line itself."""
        if plain:
            self._pieces.append((plain, style))
        return self

    def append_text(self, other: Text) -> Text:
        """Append another line; returns the line itself."""
        self._pieces += other._pieces
        return self

    def copy(self) -> Text:
        """A copy that can be changed without changing this line."""
        return Text().append_text(self)

    def stylize(self, style: str) -> None:
        """Add a style to the whole line."""
        self._pieces = [(piece, f"{own} {style}".strip()) for piece, own in self._pieces]

    def restyled(self, style_of: Callable[[str], str]) -> Text:
        """A copy whose styles are replaced: ``style_of`` gives the new style for an old one."""
        line = Text()
        line._pieces = [(piece, style_of(style)) for piece, style in self._pieces]
        return line

    def truncate(self, width: int) -> None:
        """Remove the characters beyond the given number of cells."""
        kept: list[tuple[str, str]] = []
        for piece, style in self._pieces:
            shown = _truncated(piece, width)
            kept.append((shown, style))
            width -= cell_len(shown)
            if len(shown) < len(piece):
                break
        self._pieces = [(piece, style) for piece, style in kept if piece]

    def rstrip(self) -> None:
        """Remove spaces at the end."""
        while self._pieces:
            piece, style = self._pieces.pop()
            if stripped := piece.rstrip():
                self._pieces.append((stripped, style))
                return

    def to_rich(self) -> rich.text.Text:
        """The same line as a Text of rich."""
        from rich.text import Text as RichText

        return RichText.assemble(*self._pieces, no_wrap=True)

    def __rich__(self) -> rich.text.Text:
        """Make the line a renderable of rich."""
        return self.to_rich()

    def __add__(self, other: Text | str) -> Text:
        return self.copy().append(other) if isinstance(other, str) else self.copy().append_text(other)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __repr__(self) -> str:
        return f"Text({self.plain!r})"


def cell_len(text: str) -> int:
    """Number of terminal cells that a text takes: two for a wide character, none for a combining one."""
    if text.isascii() or all(char in SINGLE_CELL_CHARACTERS or char.isascii() for char in text):
        return len(text)
    from rich.cells import cell_len as measured

    return measured(text)


def _truncated(text: str, width: int) -> str:
    """The longest beginning of the text that fits into the given number of cells."""
    if cell_len(text) <= width:
        return text
    kept = text[: max(0, width)]  # a good first guess: most characters take one cell
    while kept and cell_len(kept) > width:
        kept = kept[:-1]
    return kept
