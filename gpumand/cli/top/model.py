"""The state of the screen and how keys change it, as plain values without input or output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gpumand.cli.render.format import clean, count, join_names
from gpumand.cli.top import keys

Entry = Mapping[str, Any]

PAGE = 10
"""Number of consumers that Page Up and Page Down move by."""


class Verb(StrEnum):
    """An action that a key can start."""

    LOAD = "load"
    EVICT = "evict"
    FORCE = "force"
    PIN = "pin"
    UNPIN = "unpin"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Command:
    """An action to carry out.

    Attributes:
        verb: the action.
        consumer: name of the consumer it applies to; "" for QUIT.
    """

    verb: Verb
    consumer: str = ""


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


@dataclass(frozen=True, slots=True)
class Model:
    """The state of the screen.

    Attributes:
        status: the last answer of GetStatus; None before the first.
        recent: the last evictions, newest first.
        selected: name of the selected consumer; "" while there is none.
        message: the result of the last key.
        question: the question that is open; None when there is none.
        help: whether the help page is shown.
        stale_reason: why the status is out of date; "" while it is current.
    """

    status: Entry | None = None
    recent: tuple[Entry, ...] = ()
    selected: str = ""
    message: Message = NOTHING
    question: Question | None = None
    help: bool = False
    stale_reason: str = ""

    @property
    def consumers(self) -> Sequence[Entry]:
        """The consumers of the last status."""
        found: Sequence[Entry] = self.status["consumers"] if self.status else ()
        return found

    @property
    def position(self) -> int:
        """The index of the selected consumer; 0 when there is none."""
        names = [str(one["name"]) for one in self.consumers]
        return names.index(self.selected) if self.selected in names else 0

    @property
    def consumer(self) -> Entry | None:
        """The selected consumer."""
        return self.consumers[self.position] if self.consumers else None

    def with_status(self, status: Entry) -> Model:
        """A model with a new status. The selection stays; if its consumer is gone, the next one is selected."""
        place = self.position
        model = replace(self, status=status, stale_reason="")
        names = [str(one["name"]) for one in model.consumers]
        if self.selected in names:
            return model
        return replace(model, selected=names[min(place, len(names) - 1)] if names else "", question=None)

    def with_message(self, text: str, *, is_error: bool = False) -> Model:
        """A model with a message."""
        return replace(self, message=Message(text, is_error))


@dataclass(frozen=True, slots=True)
class KeyResult:
    """The result of a key: the new model and the action to carry out, if any."""

    model: Model
    command: Command | None = field(default=None)


def press(model: Model, key: str) -> KeyResult:
    """Handle a key: the new model, and the action to carry out, if any."""
    if key == keys.INTERRUPT:
        return KeyResult(model, Command(Verb.QUIT))
    if model.question is not None:
        return _answer_question(model, model.question, key)
    if model.help and key != "q":
        return KeyResult(replace(model, help=False))
    return _handle_key(replace(model, message=NOTHING), key)


def _handle_key(model: Model, key: str) -> KeyResult:
    """Handle a key while neither a question nor the help page is open."""
    if key in ("q", keys.ESCAPE):
        return KeyResult(model, Command(Verb.QUIT))
    if key in ("h", "?"):
        return KeyResult(replace(model, help=True))
    if key in _ACTIONS and model.consumer is not None:
        return _ACTIONS[key](model, model.consumer)
    return KeyResult(_move_selection(model, _MOVES[key]) if key in _MOVES else model)


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
    if not model.consumers:
        return model
    place = max(0, min(len(model.consumers) - 1, model.position + by))
    return replace(model, selected=str(model.consumers[place]["name"]))


def _answer_question(model: Model, question: Question, key: str) -> KeyResult:
    """Handle a key while a question is open; only "y" confirms."""
    answered = replace(model, question=None)
    if key in ("y", "Y"):
        return KeyResult(answered.with_message(_progress_message(question.command)), question.command)
    return KeyResult(answered.with_message("cancelled"))


def _load(model: Model, consumer: Entry) -> KeyResult:
    command = Command(Verb.LOAD, str(consumer["name"]))
    return KeyResult(model.with_message(_progress_message(command)), command)


def _pin(model: Model, consumer: Entry) -> KeyResult:
    command = Command(Verb.UNPIN if consumer.get("pinned") else Verb.PIN, str(consumer["name"]))
    return KeyResult(model, command)


def _evict(model: Model, consumer: Entry) -> KeyResult:
    """Ask for confirmation; a consumer that is leased or pinned can only be evicted by force."""
    name = str(consumer["name"])
    if consumer.get("residency") == "unloaded" and not consumer.get("used_mib"):
        return KeyResult(model.with_message(f"{clean(name)} is not loaded"))
    protected = _protection(model, consumer)
    if protected:
        return KeyResult(model.with_message(f"{clean(name)} {protected}; press E to evict it by force", is_error=True))
    return KeyResult(replace(model, question=Question(f"Evict {clean(name)}?", Command(Verb.EVICT, name))))


def _force(model: Model, consumer: Entry) -> KeyResult:
    """Ask for confirmation and name the leases that would be revoked."""
    name = str(consumer["name"])
    owners = _owners(model, name)
    text = f"Evict {clean(name)} by force?"
    if owners:
        text = f"Evict {clean(name)} by force and revoke {count(len(owners), 'lease')} held by {_first_names(owners)}?"
    elif consumer.get("pinned"):
        text = f"Evict {clean(name)} by force although it is pinned?"
    return KeyResult(replace(model, question=Question(text, Command(Verb.FORCE, name))))


def _protection(model: Model, consumer: Entry) -> str:
    owners = _owners(model, str(consumer["name"]))
    if owners:
        return f"is leased by {_first_names(owners)}"
    return "is pinned" if consumer.get("pinned") else ""


def _owners(model: Model, name: str) -> list[str]:
    leases = model.status["leases"] if model.status else ()
    return [clean(one.get("owner") or f"uid {one['owner_uid']}") for one in leases if one["consumer"] == name]


def _first_names(names: list[str]) -> str:
    """The first three names, and the number of the others."""
    others = len(names) - 3
    return join_names([*names[:3], f"{count(others, 'other')}"] if others > 0 else names)


def _progress_message(command: Command) -> str:
    words = {Verb.LOAD: "loading", Verb.EVICT: "evicting", Verb.FORCE: "evicting"}
    return f"{words[command.verb]} {clean(command.consumer)} …" if command.verb in words else ""


_ACTIONS = {"l": _load, "e": _evict, "E": _force, "p": _pin}
