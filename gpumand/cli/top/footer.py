"""The lines at the bottom: a question or a message, the lists, and the keys."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.cli.render.format import clean
from gpumand.cli.render.text import Text
from gpumand.cli.render.theme import Theme
from gpumand.cli.top import keys
from gpumand.cli.top.model import Model
from gpumand.cli.top.screen import Hit, Line, Span
from gpumand.cli.top.sections import Section
from gpumand.cli.top.tables import command_of

Key = tuple[str, str, str]
"""Name on the screen, name of the key, and what it does."""

SELECT: Key = ("↑↓", keys.DOWN, "select")
ALWAYS: tuple[Key, ...] = (("?", "?", "help"), ("q", "q", "quit"))
OPTIONAL: tuple[Key, ...] = (
    ("Tab", keys.TAB, "next list"),
    SELECT,
    ("Enter", keys.ENTER, "details"),
    ("s", "s", "sort"),
    ("t", "t", "colors"),
)
"""Keys that narrow screens leave out, the last ones first."""

OF_LIST: dict[Section, tuple[Key, ...]] = {
    Section.CONSUMERS: (("l", "l", "load"), ("e", "e", "evict"), ("p", "p", "pin")),
    Section.LEASES: (("r", "r", "release"), ("n", "n", "renew")),
    Section.QUEUE: (("c", "c", "cancel"),),
}


MIN_LINES_FOR_LISTS = 30
"""Lines of the screen from which on the names of the lists are always shown."""


def footer(model: Model, theme: Theme, height: int) -> list[Line]:
    """The lines at the bottom of a screen of that height."""
    message, keys_line = _message_line(model), _keys_line(model, theme)
    lists = _lists_line(model, theme) if model.status is not None else Line()
    if height >= MIN_LINES_FOR_LISTS:
        return [message, lists, keys_line]
    return [message if message.text else lists, keys_line]


def _message_line(model: Model) -> Line:
    """The open question, else the result of the last key, else what a row of a table may have no room for."""
    if model.question is not None:
        return Line(Text.assemble((model.question.text, "bold yellow"), " y = yes, any other key = no"))
    if model.message.text:
        return Line(Text(clean(model.message.text), style="bold red" if model.message.is_error else "bold"))
    row = model.row(model.focus)
    if row is None:
        return Line()
    if model.focus is Section.CONSUMERS and row.entry.get("error"):
        return Line(Text(f"{clean(row.key)}: {clean(row.entry['error'])}", style="red"))
    if model.focus is Section.QUEUE:
        return Line(Text(f"waits for: {clean(row.entry['waiting_for'])}"))
    return Line(Text(command_of(row.entry))) if model.focus is Section.PROCESSES else Line()


def _lists_line(model: Model, theme: Theme) -> Line:
    """The lists with their sizes and the keys that go to them; also those that the screen has no room for."""
    pieces: list[tuple[str, str, Hit]] = []
    for number, section in enumerate(Section):
        has_focus = section is model.focus
        text = f"{number} {section} {len(model.rows(section))}"
        if has_focus and not theme.color:
            text = f"[{text}]"
        pieces.append((text, "reverse" if has_focus else "bright_black", Hit(key=str(number))))
    return _line_of(pieces, "  ")


def _keys_line(model: Model, theme: Theme) -> Line:
    """The keys of the list that has the focus. The keys for help and quitting are never left out."""
    if model.help or model.details:
        return _keys_of((("↑↓", keys.DOWN, "scroll"), ("Esc", keys.ESCAPE, "back"), ("q", "q", "quit")), theme)
    own = OF_LIST.get(model.focus, ())
    for optional in range(len(OPTIONAL), -1, -1):
        line = _keys_of([*own, *OPTIONAL[:optional], *ALWAYS], theme)
        if line.text.cell_len <= theme.width:
            return line
    return _keys_of(ALWAYS, theme)


def _keys_of(shown: Sequence[Key], theme: Theme) -> Line:
    pieces = []
    for name, key, what in shown:
        shown_name = name if theme.unicode or name.isascii() else "jk"
        if theme.color:
            pieces += [(f" {shown_name} ", "reverse", Hit(key=key)), (f"{what} ", "", Hit(key=key))]
        else:
            pieces.append((f" {shown_name}={what} ", "", Hit(key=key)))
    return _line_of(pieces, "")


def _line_of(pieces: Sequence[tuple[str, str, Hit]], gap: str) -> Line:
    text, spans = Text(), []
    for plain, style, hit in pieces:
        if text:
            text.append(gap)
        start = text.cell_len
        text.append(plain, style)
        spans.append(Span(start, text.cell_len, hit))
    text.rstrip()
    return Line(text, tuple(spans))
