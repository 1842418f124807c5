"""The state of the screen, as plain values without input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gpumand.cli.render.format import clean
from gpumand.cli.top import palette, sections
from gpumand.cli.top.processes import Facts
from gpumand.cli.top.sections import Row, Section

Entry = Mapping[str, Any]


class Verb(StrEnum):
    """An action that a key can start."""

    LOAD = "load"
    EVICT = "evict"
    FORCE = "force"
    PIN = "pin"
    UNPIN = "unpin"
    RELEASE = "release"
    RENEW = "renew"
    CANCEL = "cancel"
    MOUSE = "mouse"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Command:
    """An action to carry out.

    Attributes:
        verb: the action.
        target: name of the consumer, id of the lease or id of the request that it applies to; "" = none.
        label: the target for people; "" = the target itself.
    """

    verb: Verb
    target: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A line for the user; ``is_error`` marks a failure."""

    text: str
    is_error: bool = False


NOTHING = Message("")


@dataclass(frozen=True, slots=True)
class Question:
    """A confirmation before an action that cannot be undone.

    Attributes:
        text: the question.
        command: the action to carry out after the key "y".
    """

    text: str
    command: Command


_ROWS = {
    Section.DEVICES: sections.device_rows,
    Section.CONSUMERS: sections.consumer_rows,
    Section.LEASES: sections.lease_rows,
    Section.QUEUE: sections.queue_rows,
}


@dataclass(frozen=True, slots=True)
class Model:
    """The state of the screen.

    Attributes:
        status: the last answer of GetStatus; None before the first.
        recent: the last evictions, newest first.
        facts: what /proc says of processes, by pid.
        focus: the list that keys apply to.
        chosen: key of the selected row of each list.
        orders: the order of each list that is not in its first one.
        message: the result of the last key.
        question: the question that is open; None when there is none.
        help: whether the help page is shown.
        details: whether the details of the selected row are shown.
        scroll: first line of the help page or of the details that is shown.
        theme: name of the color theme.
        mouse: whether the mouse is used.
        stale_reason: why the status is out of date; "" while it is current.
    """

    status: Entry | None = None
    recent: tuple[Entry, ...] = ()
    facts: Mapping[int, Facts] = field(default_factory=dict)
    focus: Section = Section.CONSUMERS
    chosen: Mapping[Section, str] = field(default_factory=dict)
    orders: Mapping[Section, str] = field(default_factory=dict)
    message: Message = NOTHING
    question: Question | None = None
    help: bool = False
    details: bool = False
    scroll: int = 0
    theme: str = palette.NAMES[0]
    mouse: bool = True
    stale_reason: str = ""

    def rows(self, section: Section) -> list[Row]:
        """The rows of a list, in its order."""
        if self.status is None:
            return []
        order = self.orders.get(section, "")
        if section is Section.PROCESSES:
            return sections.process_rows(self.status, self.facts, order)
        return sections.event_rows(self.recent) if section is Section.EVENTS else _ROWS[section](self.status, order)

    def position(self, section: Section, rows: Sequence[Row]) -> int:
        """The index of the selected row among the rows of a list; 0 when there is none."""
        chosen = self.chosen.get(section)
        return next((place for place, row in enumerate(rows) if row.key == chosen), 0)

    def row(self, section: Section) -> Row | None:
        """The selected row of a list."""
        rows = self.rows(section)
        return rows[self.position(section, rows)] if rows else None

    @property
    def selected(self) -> str:
        """Name of the selected consumer; "" while there is none."""
        row = self.row(Section.CONSUMERS)
        return row.key if row else ""

    @property
    def consumer(self) -> Entry | None:
        """The selected consumer."""
        row = self.row(Section.CONSUMERS)
        return row.entry if row else None

    def with_status(self, status: Entry) -> Model:
        """A model with a new status. Selections stay; where a selected row is gone, the next one is selected.

        A question about a row that is gone is closed.
        """
        model = replace(self, status=status, stale_reason="")
        chosen = {}
        for section in Section:
            rows, old = model.rows(section), self.chosen.get(section)
            if rows and not any(row.key == old for row in rows):
                place = self.position(section, self.rows(section))
                chosen[section] = rows[min(place, len(rows) - 1)].key if old is not None else rows[0].key
        lost = self.focus in chosen or not model.rows(self.focus)
        question = None if lost and self.question is not None else self.question
        return replace(model, chosen={**self.chosen, **chosen}, question=question)

    def with_message(self, text: str, *, is_error: bool = False) -> Model:
        """A model with a message."""
        return replace(self, message=Message(text, is_error))

    def with_selected(self, section: Section, key: str) -> Model:
        """A model whose focus is on a row."""
        return replace(self, focus=section, chosen={**self.chosen, section: key})


@dataclass(frozen=True, slots=True)
class KeyResult:
    """The result of a key: the new model and the action to carry out, if any."""

    model: Model
    command: Command | None = field(default=None)


def progress_message(command: Command) -> str:
    """The message while an action runs; "" for actions that take no time."""
    words = {Verb.LOAD: "loading", Verb.EVICT: "evicting", Verb.FORCE: "evicting"}
    return f"{words[command.verb]} {clean(command.target)} …" if command.verb in words else ""
