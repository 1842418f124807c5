"""Lines in pieces that have styles: of rich's Text what lines need, without its import.

Importing rich's costs half as much as all of click, and its console twice that: a status that goes into a pipe has no
use for either. Where there are colors, rich paints: a Text is one of its renderables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.text

NARROW = frozenset("●█░▒▓■…→↑↓▸·│─")
"""What our own lines are drawn with; each takes one cell."""


class Text:
    """A line, or a part of one.

    Args:
        plain: its characters.
        style: as rich names styles, for example "bold red"; "" for none.
    """

    __slots__ = ("_pieces",)

    def __init__(self, plain: str = "", style: str = "") -> None:
        self._pieces: list[tuple[str, str]] = [(plain, style)] if plain else []

    @classmethod
    def assemble(cls, *parts: str | tuple[str, str] | Text) -> Text:
        """Of several parts: texts, and pairs of text and style."""
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
        """Its characters."""
        return "".join(piece for piece, _ in self._pieces)

    @property
    def cell_len(self) -> int:
        """Columns that it takes."""
        return cell_len(self.plain)

    def append(self, plain: str, style: str = "") -> Text:
        """Add to its end; itself."""
        if plain:
            self._pieces.append((plain, style))
        return self

    def append_text(self, other: Text) -> Text:
        """Add another one to its end; itself."""
        self._pieces += other._pieces
        return self

    def copy(self) -> Text:
        """One that changes by itself."""
        return Text().append_text(self)

    def stylize(self, style: str) -> None:
        """Give all of it one more style."""
        self._pieces = [(piece, f"{own} {style}".strip()) for piece, own in self._pieces]

    def truncate(self, width: int) -> None:
        """Cut what is beyond that many columns."""
        kept: list[tuple[str, str]] = []
        for piece, style in self._pieces:
            shown = _cut(piece, width)
            kept.append((shown, style))
            width -= cell_len(shown)
            if len(shown) < len(piece):
                break
        self._pieces = [(piece, style) for piece, style in kept if piece]

    def rstrip(self) -> None:
        """Drop blanks at its end."""
        while self._pieces:
            piece, style = self._pieces.pop()
            if stripped := piece.rstrip():
                self._pieces.append((stripped, style))
                return

    def to_rich(self) -> rich.text.Text:
        """The same as rich has it."""
        from rich.text import Text as RichText

        return RichText.assemble(*self._pieces, no_wrap=True)

    def __rich__(self) -> rich.text.Text:
        """What rich prints for it."""
        return self.to_rich()

    def __add__(self, other: Text) -> Text:
        return self.copy().append_text(other)

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def __repr__(self) -> str:
        return f"Text({self.plain!r})"


def cell_len(text: str) -> int:
    """Columns that a text takes: two for a wide character, none for a combining one."""
    if text.isascii() or all(char in NARROW or char.isascii() for char in text):
        return len(text)
    from rich.cells import cell_len as measured

    return measured(text)


def _cut(text: str, width: int) -> str:
    """As much of the text's beginning as fits."""
    if cell_len(text) <= width:
        return text
    kept = text[: max(0, width)]  # most characters take a cell
    while kept and cell_len(kept) > width:
        kept = kept[:-1]
    return kept
