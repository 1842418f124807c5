"""Keys and mouse events: how they change the model, and the actions that they start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gpumand.cli.top import keys, palette
from gpumand.cli.top.actions import ACTIONS
from gpumand.cli.top.model import NOTHING, Command, KeyResult, Model, Question, Verb, progress_message
from gpumand.cli.top.sections import ORDERS, Section

PAGE = 10
"""Number of rows that Page Up and Page Down move by."""


def press(model: Model, key: str) -> KeyResult:
    """Handle a key: the new model, and the action to carry out, if any."""
    if key == keys.INTERRUPT:
        return KeyResult(model, Command(Verb.QUIT))
    if model.question is not None:
        return _answer_question(model, model.question, key)
    if (model.help or model.details) and key != "q":
        return KeyResult(_read_on(model, key))
    return _handle_key(replace(model, message=NOTHING), key)


def click(model: Model, section: Section | None, key: str) -> KeyResult:
    """Handle a click on a row: select it, or show its details if it is selected already.

    Args:
        model: the model.
        section: the list; None = a place outside of lists.
        key: key of the row; "" = the heading.
    """
    if model.question is not None or model.help or model.details:
        return press(model, keys.ESCAPE)
    if section is None:
        return KeyResult(model)
    if not key:
        return KeyResult(_next_order(replace(model, focus=section, message=NOTHING)))
    row = model.row(section)
    if model.focus is section and row is not None and row.key == key and model.chosen.get(section) == key:
        return press(model, keys.ENTER)
    return KeyResult(replace(model, message=NOTHING).with_selected(section, key))


def wheel(model: Model, section: Section | None, by: int) -> KeyResult:
    """Handle the mouse wheel over a list: move its selection."""
    if model.question is not None:
        return KeyResult(model)
    if model.help or model.details:
        return KeyResult(replace(model, scroll=max(0, model.scroll + by)))
    return KeyResult(_move_selection(replace(model, focus=section or model.focus), by))


def _read_on(model: Model, key: str) -> Model:
    """Scroll the help page or the details; any other key closes them."""
    if key in _MOVES:
        return replace(model, scroll=max(0, model.scroll + _MOVES[key]) if key != keys.HOME else 0)
    return replace(model, help=False, details=False, scroll=0)


def _handle_key(model: Model, key: str) -> KeyResult:
    """Handle a key while neither a question nor a page is open."""
    if key in ("q", keys.ESCAPE):
        return KeyResult(model, Command(Verb.QUIT))
    if key in _VIEWS:
        return KeyResult(_VIEWS[key](model))
    if key == "m":
        return KeyResult(replace(model, mouse=not model.mouse), Command(Verb.MOUSE))
    if key in ACTIONS:
        return _act(model, key)
    return KeyResult(_move_selection(model, _MOVES[key]) if key in _MOVES else model)


def _act(model: Model, key: str) -> KeyResult:
    """Act on the selected row. Where another list has the focus, go to the list of the key first, to show that row."""
    section, action = ACTIONS[key]
    row = model.row(section)
    if row is None:
        return KeyResult(model)
    if model.focus is not section:
        focused = replace(model, focus=section)
        return KeyResult(focused.with_message(f"select one of the {section} and press {key} again"))
    return action(model, row.entry)


_MOVES = {
    keys.UP: -1,
    "k": -1,
    keys.DOWN: 1,
    "j": 1,
    keys.PAGE_UP: -PAGE,
    keys.PAGE_DOWN: PAGE,
    keys.HOME: -(2**16),
    keys.END: 2**16,
}


def _move_selection(model: Model, by: int) -> Model:
    rows = model.rows(model.focus)
    if not rows:
        return model
    place = max(0, min(len(rows) - 1, model.position(model.focus, rows) + by))
    return model.with_selected(model.focus, rows[place].key)


def _next_list(model: Model, step: int) -> Model:
    """Move the focus to the next list that has rows."""
    order = list(Section)
    place = order.index(model.focus)
    for distance in range(1, len(order)):
        section = order[(place + step * distance) % len(order)]
        if model.rows(section):
            return replace(model, focus=section)
    return model


def _next_order(model: Model, step: int = 1) -> Model:
    """Sort the list that has the focus by its next order."""
    orders = ORDERS.get(model.focus, ())
    if not orders:
        return model.with_message(f"{model.focus} have one order")
    at = orders.index(model.orders.get(model.focus, orders[0]))
    order = orders[(at + step) % len(orders)]
    sorted_model = replace(model, orders={**model.orders, model.focus: order})
    return sorted_model.with_message(f"{model.focus} in the order of {order}")


def _focused(model: Model, section: Section) -> Model:
    return replace(model, focus=section)


def _next_theme(model: Model) -> Model:
    theme = palette.next_theme(model.theme)
    return replace(model, theme=theme).with_message(f"colors: {theme}")


_VIEWS: dict[str, Callable[[Model], Model]] = {
    "h": lambda model: replace(model, help=True, scroll=0),
    "?": lambda model: replace(model, help=True, scroll=0),
    keys.TAB: lambda model: _next_list(model, 1),
    keys.BACK_TAB: lambda model: _next_list(model, -1),
    keys.RIGHT: lambda model: _next_list(model, 1),
    keys.LEFT: lambda model: _next_list(model, -1),
    keys.ENTER: lambda model: replace(model, details=model.row(model.focus) is not None, scroll=0),
    "s": _next_order,
    "S": lambda model: _next_order(model, -1),
    "t": _next_theme,
    **{str(place): partial(_focused, section=section) for place, section in enumerate(Section)},
}


def _answer_question(model: Model, question: Question, key: str) -> KeyResult:
    """Handle a key while a question is open; only "y" confirms."""
    answered = replace(model, question=None)
    if key in ("y", "Y"):
        return KeyResult(answered.with_message(progress_message(question.command)), question.command)
    return KeyResult(answered.with_message("cancelled"))
