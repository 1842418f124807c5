"""Describes the keys of a configuration table, and reads a table by its description.

A table is a class with one attribute for each key. The metadata of each attribute hold its value type, its description
and its unit. The reader and the reference documentation use the same description.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any, Protocol, TypeVar, cast

from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.domain.name_suggestions import nearest

_METADATA = "gpumand.key"
MAX_EXAMPLE = 70
"""A longer text is not repeated in the message about it."""

T = TypeVar("T")


class Sentinel(Enum):
    """INVALID replaces a value that was refused, so that later checks neither report it again nor call it missing."""

    INVALID = "invalid"


INVALID = Sentinel.INVALID


class ValueType(Protocol):
    """The type of a key's value: checks and converts what tomllib returned."""

    @property
    def description(self) -> str:
        """The accepted values in words, for the reference: "whole number from 0 to 64"."""

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        """Check and convert a value as parsed by tomllib; add a problem and return INVALID if it is refused."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table, as documented in the reference.

    Attributes:
        name: as written in TOML.
        value_type: which values it accepts.
        doc: its meaning; starts with a noun phrase.
        unit: "MiB", "s", "d" or "".
        required: True if the key must be given.
        default: the value if the key is not given; None for no value.
    """

    name: str
    value_type: ValueType
    doc: str
    unit: str
    required: bool
    default: Any


def keys_table(cls: type[T]) -> type[T]:
    """Declare a class as the description of a table. It needs no methods, which would be compiled at each start."""
    return dataclass(init=False, repr=False, eq=False)(cls)


def key(value_type: ValueType, doc: str, *, default: Any = MISSING, unit: str = "") -> Any:
    """Declare a key as an attribute of a table class; a key without a default is required."""
    return field(default=default, kw_only=True, metadata={_METADATA: (value_type, doc, unit)})


def keys_of(table: type[Any]) -> Mapping[str, Key]:
    """Return the keys of a table class by name, made once for each class.

    An attribute whose name is a Python keyword has a trailing underscore, which the key does not have.
    """
    return _keys_of(cast(Hashable, table))


@cache
def _keys_of(table: Any) -> Mapping[str, Key]:
    return MappingProxyType({one.name.rstrip("_"): _describe(one) for one in fields(table)})


def _describe(attribute: Field[Any]) -> Key:
    value_type, doc, unit = attribute.metadata[_METADATA]
    required = attribute.default is MISSING
    return Key(attribute.name.rstrip("_"), value_type, doc, unit, required, None if required else attribute.default)


def _path_example(table: type[Any], raw: object) -> str:
    """What to write for a route that is given as its path alone; "" for any other value."""
    is_path = isinstance(raw, str) and raw.startswith("/") and "path" in keys_of(table)
    return f": write {{ path = {quoted(raw)} }}" if is_path and len(str(raw)) <= MAX_EXAMPLE else ""


def read_keys(table: type[Any], raw: object, place: Place, problems: ProblemList) -> dict[str, Any]:
    """Read the keys that a table contains.

    Unknown keys are reported and left out; refused values become INVALID. Missing required keys are not reported here,
    because a preset or an earlier file may supply them; see ``check_required``.
    """
    if not isinstance(raw, dict):
        problems.add(place, f"must be a table, not {type_name(raw)}{_path_example(table, raw)}")
        return {}
    known = keys_of(table)
    for name in raw.keys() - known.keys():
        problems.add(place.at(name), "unknown key", nearest(name, known))
    return {name: known[name].value_type.read(raw[name], place.at(name), problems) for name in raw if name in known}


@dataclass(frozen=True, slots=True)
class TableOf:
    """Value type of a nested table, which becomes one value of the domain.

    Attributes:
        table: the class that describes the keys.
        make: called with all keys as keyword arguments.
    """

    table: type[Any]
    make: Callable[..., Any]

    @property
    def description(self) -> str:
        return "table"

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        before = len(problems.entries)
        given = read_keys(self.table, value, place, problems)
        if isinstance(value, dict):
            check_required(self.table, given, place, problems)
        return self.make(**with_defaults(self.table, given)) if len(problems.entries) == before else INVALID


@dataclass(frozen=True, slots=True)
class TablesByName:
    """Value type of a table of tables, which becomes a tuple of pairs of name and value.

    Attributes:
        name: value type of the names.
        table: value type of the tables.
        max_length: maximum number of tables.
    """

    name: ValueType
    table: TableOf
    max_length: int = 64
    description: str = "one table for each name"

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        if not isinstance(value, dict) or len(value) > self.max_length:
            what = f"one with {len(value)}" if isinstance(value, dict) else type_name(value)
            problems.add(place, f"must be a table with at most {self.max_length} tables, not {what}")
            return INVALID
        before = len(problems.entries)
        pairs = tuple(
            (self.name.read(name, place.at(name), problems), self.table.read(table, place.at(name), problems))
            for name, table in value.items()
        )
        names = [name for name, _ in pairs]
        if len(set(names)) < len(names) and INVALID not in names:
            problems.add(place, "names a device twice: upper and lower case make no difference")
        return pairs if len(problems.entries) == before else INVALID


def check_required(table: type[Any], given: dict[str, Any], place: Place, problems: ProblemList) -> None:
    """Report every required key that is missing."""
    for one in keys_of(table).values():
        if one.required and one.name not in given:
            problems.add(place.at(one.name), f"is missing: {one.doc}")


def with_defaults(table: type[Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return all keys of a table: those given, and the defaults of the others."""
    return {name: given.get(name, one.default) for name, one in keys_of(table).items()}


def type_name(value: object) -> str:
    """Return the TOML type of a parsed value, for messages: "a boolean"."""
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"),
        (int, "a whole number"),
        (float, "a decimal number"),
        (str, "a string"),
        (list, "a list"),
        (dict, "a table"),
    )
    return next((name for types, name in names if isinstance(value, types)), "a date or time")
