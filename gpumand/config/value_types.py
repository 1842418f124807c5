"""Value types of configuration keys: which values are accepted, and the message for those that are refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpumand.config.problems import Place, ProblemList, quoted
from gpumand.config.table_schema import INVALID, ValueType, type_name
from gpumand.domain.name_suggestions import nearest

MAX_TEXT = 1024
MAX_JSON = 64 * 1024
MAX_JSON_DEPTH = 32
_NUMBER = re.compile(r"-?[0-9]{1,10}(?:\.[0-9]{1,6})?")


class InvalidValue(Exception):
    """The value of a key is refused; the message says what is wrong and what to write.

    Attributes:
        hint: the most similar accepted value, or "".
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Leaf:
    """Value type that is checked as a whole: ``accept`` returns the converted value or raises InvalidValue."""

    def accept(self, value: Any) -> Any:
        raise NotImplementedError

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        """Check and convert a value; see ValueType."""
        try:
            return self.accept(value)
        except InvalidValue as refused:
            problems.add(place, str(refused), refused.hint)
            return INVALID


@dataclass(frozen=True, slots=True)
class Boolean(Leaf):
    """true or false."""

    description: str = "boolean"

    def accept(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise InvalidValue(f"must be true or false, not {type_name(value)}{_unquoted(value, ('true', 'false'))}")
        return value


@dataclass(frozen=True, slots=True)
class Integer(Leaf):
    """A whole number in a range, bounds included."""

    low: int
    high: int

    @property
    def description(self) -> str:
        return f"whole number from {self.low} to {self.high}"

    def accept(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValue(f"must be a {self.description}, not {type_name(value)}{_unquoted(value)}")
        if not self.low <= value <= self.high:
            raise InvalidValue(f"must be a {self.description}, not {_digits(value)}")
        return value


@dataclass(frozen=True, slots=True)
class Number(Leaf):
    """A number in a range, with or without decimals; ``above`` excludes the lower bound itself."""

    low: float
    high: float
    above: bool = False

    @property
    def description(self) -> str:
        return (
            f"number {'above' if self.above else 'from'} {self.low:g} {'up to' if self.above else 'to'} {self.high:g}"
        )

    def accept(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidValue(f"must be a {self.description}, not {type_name(value)}{_unquoted(value)}")
        if not self.low <= value <= self.high or (self.above and value == self.low):
            raise InvalidValue(f"must be a {self.description}, not {_digits(value)}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Text(Leaf):
    """A string that is not empty, has no control characters and passes ``check``.

    ``check`` returns the string, possibly normalised, or raises InvalidValue.
    """

    description: str = "text"
    check: Callable[[str], str] = str
    max_length: int = MAX_TEXT

    def accept(self, value: Any) -> str:
        if not isinstance(value, str):
            raise InvalidValue(f"must be a string, not {type_name(value)}")
        if not value:
            raise InvalidValue("must not be empty: remove the key instead")
        if len(value) > self.max_length:
            raise InvalidValue(f"is longer than {self.max_length} characters, the maximum")
        if not value.isprintable():
            raise InvalidValue(f"contains control characters: {quoted(value)}")
        return self.check(value)


@dataclass(frozen=True, slots=True)
class Choice(Leaf):
    """One of several words, converted by ``make``."""

    words: tuple[str, ...]
    make: Callable[[str], Any] = str

    @property
    def description(self) -> str:
        return "one of " + ", ".join(f'"{word}"' for word in self.words)

    def accept(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise InvalidValue(f"must be {self.description}, not {type_name(value)}")
        if value not in self.words:
            raise InvalidValue(f"must be {self.description}, not {quoted(value)}", nearest(value, self.words))
        return self.make(value)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list, converted by ``make`` into another collection.

    Attributes:
        element: value type of the elements.
        make: called with the list of converted elements.
        min_length, max_length: bounds of the number of elements.
        unique: refuse repeated elements.
        single: also accept one element without the list around it.
    """

    element: ValueType
    make: Callable[[list[Any]], Any] = tuple
    min_length: int = 0
    max_length: int = 64
    unique: bool = True
    single: bool = False

    @property
    def description(self) -> str:
        return (
            f"{self.element.description}, or a list of them"
            if self.single
            else f"list, each a {self.element.description}"
        )

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        """Check and convert a value; see ValueType."""
        if not isinstance(value, list):
            return self._read_single(value, place, problems)
        if not self.min_length <= len(value) <= self.max_length:
            problems.add(place, f"must have {self.min_length} to {self.max_length} elements, not {len(value)}")
            return INVALID
        read = [self.element.read(one, place.at(index), problems) for index, one in enumerate(value)]
        repeated = self._check_repeated(value, place, problems) if self.unique else False
        return INVALID if repeated or INVALID in read else self.make(read)

    def _read_single(self, value: Any, place: Place, problems: ProblemList) -> Any:
        if not self.single:
            problems.add(place, f"must be a list, not {type_name(value)}")
            return INVALID
        read = self.element.read(value, place, problems)
        return read if read is INVALID else self.make([read])

    def _check_repeated(self, value: list[Any], place: Place, problems: ProblemList) -> bool:
        again = [index for index, one in enumerate(value) if one in value[:index]]
        for index in again:
            problems.add(place.at(index), f"{quoted(value[index])} is listed twice")
        return bool(again)


@dataclass(frozen=True, slots=True)
class StringTable:
    """A table of strings, converted to a tuple of pairs.

    ``name`` checks the keys and ``text`` the values. Keys that differ only in case count as the same, as the names of
    HTTP headers do.
    """

    name: Text
    text: Text
    max_length: int = 32
    description: str = "table of strings"

    def read(self, value: Any, place: Place, problems: ProblemList) -> Any:
        """Check and convert a value; see ValueType."""
        if not isinstance(value, dict):
            problems.add(place, f"must be a table of strings, not {type_name(value)}")
            return INVALID
        if len(value) > self.max_length:
            problems.add(place, f"must have at most {self.max_length} entries, not {len(value)}")
            return INVALID
        before = len(problems.entries)
        pairs = tuple(self._pair(name, text, place.at(name), problems) for name, text in value.items())
        self._check_repeated(value, place, problems)
        return pairs if len(problems.entries) == before else INVALID

    def _pair(self, name: str, text: Any, place: Place, problems: ProblemList) -> tuple[Any, Any]:
        return self.name.read(name, place, problems), self.text.read(text, place, problems)

    def _check_repeated(self, value: dict[str, Any], place: Place, problems: ProblemList) -> None:
        lower_names: set[str] = set()
        for name in value:
            if name.lower() in lower_names:
                problems.add(place.at(name), "is listed twice: upper and lower case make no difference")
            lower_names.add(name.lower())


@dataclass(frozen=True, slots=True)
class OneOf(Leaf):
    """A value of any of several types, tried in order; no value may fit two of them."""

    value_types: tuple[Leaf, ...]
    description: str

    def accept(self, value: Any) -> Any:
        for value_type in self.value_types:
            try:
                return value_type.accept(value)
            except InvalidValue:
                continue
        raise InvalidValue(f"must be a {self.description}, not {quoted(value)}")


@dataclass(frozen=True, slots=True)
class Json(Leaf):
    """Any value that JSON can represent."""

    description: str = "any JSON value"

    def accept(self, value: Any) -> Any:
        _check_json(value, MAX_JSON_DEPTH)
        if len(json.dumps(value)) > MAX_JSON:
            raise InvalidValue(f"is longer than {MAX_JSON // 1024} KiB as JSON, the maximum")
        return value


def _unquoted(value: Any, words: tuple[str, ...] = ()) -> str:
    """Return the end of a message that says how to write a number or a boolean that was written as a string."""
    is_number = isinstance(value, str) and _NUMBER.fullmatch(value) is not None
    return f": write {value}, without quotes" if value in words or (is_number and not words) else ""


def _check_json(value: Any, depth: int) -> None:
    if depth == 0:
        raise InvalidValue(f"is nested more than {MAX_JSON_DEPTH} levels deep, the maximum")
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _check_json(one, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidValue("contains inf or nan, which JSON cannot represent")
    elif not isinstance(value, str | int | float):
        raise InvalidValue("contains a date or time, which JSON cannot represent: write it as a string")


def _digits(number: float) -> str:
    """Format a number for a message."""
    # Python raises ValueError when it converts an int of more than 4300 digits to text.
    return "one with so many digits" if isinstance(number, int) and abs(number) > 10**30 else str(number)
