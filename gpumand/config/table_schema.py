"""How a table's keys are described, and how a table is read by that description.

A table is an attrs class; each attribute carries a ``Key`` in its metadata: what values it takes (a *kind*), what it
means, and its unit. Reading and the reference documentation come from the same description.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

import attrs

from gpumand.config.problems import Place, ProblemList
from gpumand.domain.name_suggestions import nearest

_METADATA = "gpumand.key"


class Mark(Enum):
    """FAULTY stands for a value that was refused: it is there, but nobody must judge it again."""

    FAULTY = "faulty"


FAULTY = Mark.FAULTY


class Kind(Protocol):
    """What values a key takes."""

    @property
    def says(self) -> str:
        """For the reference: "whole number from 0 to 64"."""

    def read(self, value: Any, place: Place, faults: ProblemList) -> Any:
        """Check and convert what tomllib made of a value; a refused one gives FAULTY, and the fault is noted."""


@attrs.frozen
class Key:
    """One key of a table, as the reference documents it.

    Attributes:
        name: as written in TOML.
        kind: what values it takes.
        doc: what it means, in a sentence or two.
        unit: "MiB", "s" or "".
        required: whether it must be given.
        default: the value when it is not; None where that is "nothing".
    """

    name: str
    kind: Kind
    doc: str
    unit: str
    required: bool
    default: Any


def key(kind: Kind, doc: str, *, default: Any = attrs.NOTHING, unit: str = "") -> Any:
    """An attribute of a table class; without a default the key is required."""
    return attrs.field(default=default, kw_only=True, metadata={_METADATA: (kind, doc, unit)})


def keys_of(table: type[attrs.AttrsInstance]) -> dict[str, Key]:
    """The keys of a table class by name; an attribute that Python's grammar forbids has a trailing underscore."""
    return {one.name.rstrip("_"): _described(one) for one in attrs.fields(table)}


def _described(attribute: attrs.Attribute[Any]) -> Key:
    kind, doc, unit = attribute.metadata[_METADATA]
    required = attribute.default is attrs.NOTHING
    return Key(attribute.name.rstrip("_"), kind, doc, unit, required, None if required else attribute.default)


def read_keys(table: type[attrs.AttrsInstance], raw: object, place: Place, faults: ProblemList) -> dict[str, Any]:
    """Read the keys that are given.

    Unknown keys are noted as faults and left out; refused values are FAULTY. Whether required keys are there is not
    judged here, since they may come from elsewhere (a preset, an earlier file).
    """
    if not isinstance(raw, dict):
        faults.add(place, f"must be a table, not {kind_of(raw)}")
        return {}
    known = keys_of(table)
    for name in raw.keys() - known.keys():
        faults.add(place.at(name), "is no known key here", nearest(name, known))
    return {name: known[name].kind.read(raw[name], place.at(name), faults) for name in raw if name in known}


@attrs.frozen
class TableOf:
    """A kind: a table of its own, made into a value of the domain.

    Attributes:
        table: the class that describes it.
        make: called with all keys of it by name.
    """

    table: type[attrs.AttrsInstance]
    make: Callable[..., Any]

    @property
    def says(self) -> str:
        return "table"

    def read(self, value: Any, place: Place, faults: ProblemList) -> Any:
        before = len(faults.problems)
        given = read_keys(self.table, value, place, faults)
        if isinstance(value, dict):
            note_missing(self.table, given, place, faults)
        return self.make(**filled(self.table, given)) if len(faults.problems) == before else FAULTY


def note_missing(table: type[attrs.AttrsInstance], given: dict[str, Any], place: Place, faults: ProblemList) -> None:
    """Note every required key that is not given."""
    for one in keys_of(table).values():
        if one.required and one.name not in given:
            faults.add(place.at(one.name), f"is missing: {one.doc}")


def filled(table: type[attrs.AttrsInstance], given: dict[str, Any]) -> dict[str, Any]:
    """The keys given, with the defaults of the others."""
    return {name: given.get(name, one.default) for name, one in keys_of(table).items()}


def kind_of(value: object) -> str:
    """What tomllib made of something, in words."""
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"),
        (int, "a whole number"),
        (float, "a decimal number"),
        (str, "a text"),
        (list, "a list"),
        (dict, "a table"),
    )
    return next((name for types, name in names if isinstance(value, types)), "a date or time")
