"""What the screen shows, and what a key makes of it. Plain values in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gpumand.cli.render.format import clean, count, listed
from gpumand.cli.top import keys

Entry = Mapping[str, Any]

PAGE = 10
"""Consumers that Page Up and Page Down pass over."""


class Verb(StrEnum):
    """What a key can have done."""

    LOAD = "load"
    EVICT = "evict"
    FORCE = "force"
    PIN = "pin"
    UNPIN = "unpin"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do.

    Attributes:
        verb: what.
        consumer: with whom; "" for QUIT.
    """

    verb: Verb
    consumer: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A line for people; ``is_error`` where something went wrong."""

    text: str
    is_error: bool = False


NOTHING = Message("")


@dataclass(frozen=True, slots=True)
class Question:
    """Asked before something that cannot be taken back.

    Attributes:
        text: what is asked.
        command: what is done after a "y".
    """

    text: str
    command: Command


@dataclass(frozen=True, slots=True)
class Model:
    """All that is shown.

    Attributes:
        status: the last snapshot; None before the first.
        recent: the last evictions, newest first.
        selected: name of the chosen consumer; "" before there is any.
        message: what came of the last key.
        question: what waits for an answer.
        help: whether the keys are explained.
        away: why the picture is not of now; "" when it is.
    """

    status: Entry | None = None
    recent: tuple[Entry, ...] = ()
    selected: str = ""
    message: Message = NOTHING
    question: Question | None = None
    help: bool = False
    away: str = ""

    @property
    def consumers(self) -> Sequence[Entry]:
        """Of the last snapshot."""
        found: Sequence[Entry] = self.status["consumers"] if self.status else ()
        return found

    @property
    def position(self) -> int:
        """The place of the chosen consumer; 0 where there is none."""
        names = [str(one["name"]) for one in self.consumers]
        return names.index(self.selected) if self.selected in names else 0

    @property
    def consumer(self) -> Entry | None:
        """The chosen one."""
        return self.consumers[self.position] if self.consumers else None

    def with_status(self, status: Entry) -> Model:
        """With a new snapshot; who is chosen stays so, or its neighbour is where it is gone."""
        place = self.position
        model = replace(self, status=status, away="")
        names = [str(one["name"]) for one in model.consumers]
        if self.selected in names:
            return model
        return replace(model, selected=names[min(place, len(names) - 1)] if names else "", question=None)

    def saying(self, text: str, *, is_error: bool = False) -> Model:
        """With a message."""
        return replace(self, message=Message(text, is_error))


@dataclass(frozen=True, slots=True)
class Step:
    """What a key came to: what is shown now, and what is to be done."""

    model: Model
    command: Command | None = field(default=None)


def press(model: Model, key: str) -> Step:
    """What a key does."""
    if key == keys.INTERRUPT:
        return Step(model, Command(Verb.QUIT))
    if model.question is not None:
        return _answer(model, model.question, key)
    if model.help and key != "q":
        return Step(replace(model, help=False))
    return _plain(replace(model, message=NOTHING), key)


def _plain(model: Model, key: str) -> Step:
    """A key while nothing else is going on."""
    if key in ("q", keys.ESCAPE):
        return Step(model, Command(Verb.QUIT))
    if key in ("h", "?"):
        return Step(replace(model, help=True))
    if key in _ACTIONS and model.consumer is not None:
        return _ACTIONS[key](model, model.consumer)
    return Step(_moved(model, _MOVES[key]) if key in _MOVES else model)


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


def _moved(model: Model, by: int) -> Model:
    if not model.consumers:
        return model
    place = max(0, min(len(model.consumers) - 1, model.position + by))
    return replace(model, selected=str(model.consumers[place]["name"]))


def _answer(model: Model, question: Question, key: str) -> Step:
    """Only a "y" is a yes."""
    answered = replace(model, question=None)
    if key in ("y", "Y"):
        return Step(answered.saying(_under_way(question.command)), question.command)
    return Step(answered.saying("nothing was done"))


def _load(model: Model, consumer: Entry) -> Step:
    command = Command(Verb.LOAD, str(consumer["name"]))
    return Step(model.saying(_under_way(command)), command)


def _pin(model: Model, consumer: Entry) -> Step:
    command = Command(Verb.UNPIN if consumer.get("pinned") else Verb.PIN, str(consumer["name"]))
    return Step(model, command)


def _evict(model: Model, consumer: Entry) -> Step:
    """Asked about first; a consumer that is in use or pinned takes another key."""
    name = str(consumer["name"])
    if consumer.get("residency") == "unloaded":
        return Step(model.saying(f"{clean(name)} is not loaded"))
    protected = _protection(model, consumer)
    if protected:
        return Step(model.saying(f"{clean(name)} {protected}; E evicts it by force", is_error=True))
    return Step(replace(model, question=Question(f"Evict {clean(name)}?", Command(Verb.EVICT, name))))


def _force(model: Model, consumer: Entry) -> Step:
    """Says what is lost by it."""
    name = str(consumer["name"])
    owners = _owners(model, name)
    text = f"Evict {clean(name)} by force?"
    if owners:
        text = f"Evict {clean(name)} by force, and revoke {count(len(owners), 'lease')} of {listed(owners[:3])}?"
    elif consumer.get("pinned"):
        text = f"Evict {clean(name)} by force, though it is pinned?"
    return Step(replace(model, question=Question(text, Command(Verb.FORCE, name))))


def _protection(model: Model, consumer: Entry) -> str:
    owners = _owners(model, str(consumer["name"]))
    if owners:
        return f"is leased by {listed(owners[:3])}"
    return "is pinned" if consumer.get("pinned") else ""


def _owners(model: Model, name: str) -> list[str]:
    leases = model.status["leases"] if model.status else ()
    return [clean(one.get("owner") or f"uid {one['owner_uid']}") for one in leases if one["consumer"] == name]


def _under_way(command: Command) -> str:
    words = {Verb.LOAD: "loading", Verb.EVICT: "evicting", Verb.FORCE: "evicting"}
    return f"{words[command.verb]} {clean(command.consumer)} …" if command.verb in words else ""


_ACTIONS = {"l": _load, "e": _evict, "E": _force, "p": _pin}
