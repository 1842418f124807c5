"""Kinds of values that keys take: what is accepted, and what is said of the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import attrs

from gpumand.config.problems import Place, ProblemList, shown
from gpumand.config.table_schema import FAULTY, Kind, kind_of
from gpumand.domain.name_suggestions import nearest

MAX_TEXT = 1024
MAX_JSON = 64 * 1024
MAX_JSON_DEPTH = 32


class Refused(Exception):
    """A value is not accepted.

    Attributes:
        hint: the nearest value that would be, or "".
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Leaf:
    """A kind whose value is judged as a whole: ``accept`` returns it converted or raises Refused."""

    def accept(self, value: Any) -> Any:
        raise NotImplementedError

    def read(self, value: Any, place: Place, faults: ProblemList) -> Any:
        """See Kind."""
        try:
            return self.accept(value)
        except Refused as refused:
            faults.add(place, str(refused), refused.hint)
            return FAULTY


@attrs.frozen
class Flag(Leaf):
    """true or false."""

    says: str = "boolean"

    def accept(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Refused(f"must be true or false, not {kind_of(value)}")
        return value


@attrs.frozen
class Whole(Leaf):
    """A whole number in a range, both ends included."""

    low: int
    high: int

    @property
    def says(self) -> str:
        return f"whole number from {self.low} to {self.high}"

    def accept(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise Refused(f"must be a {self.says}, not {kind_of(value)}")
        if not self.low <= value <= self.high:
            raise Refused(f"must be a {self.says}, not {_digits(value)}")
        return value


@attrs.frozen
class Decimal(Leaf):
    """A number in a range, whole or not; with ``above`` the lower end itself is not included."""

    low: float
    high: float
    above: bool = False

    @property
    def says(self) -> str:
        return (
            f"number {'above' if self.above else 'from'} {self.low:g} {'up to' if self.above else 'to'} {self.high:g}"
        )

    def accept(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"must be a {self.says}, not {kind_of(value)}")
        if not self.low <= value <= self.high or (self.above and value == self.low):
            raise Refused(f"must be a {self.says}, not {_digits(value)}")
        return float(value)


@attrs.frozen
class Text(Leaf):
    """A text, not empty, without control characters, and as ``check`` wants it (it returns the text or raises)."""

    says: str = "text"
    check: Callable[[str], str] = str
    most: int = MAX_TEXT

    def accept(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Refused(f"must be a text, not {kind_of(value)}")
        if not value:
            raise Refused("must not be empty (leave the key out instead)")
        if len(value) > self.most:
            raise Refused(f"is longer than {self.most} characters")
        if not value.isprintable():
            raise Refused(f"holds control characters: {shown(value)}")
        return self.check(value)


@attrs.frozen
class Choice(Leaf):
    """One of some words, converted by ``make``."""

    words: tuple[str, ...]
    make: Callable[[str], Any] = str

    @property
    def says(self) -> str:
        return "one of " + ", ".join(f'"{word}"' for word in self.words)

    def accept(self, value: Any) -> Any:
        if not isinstance(value, str):
            raise Refused(f"must be {self.says}, not {kind_of(value)}")
        if value not in self.words:
            raise Refused(f"must be {self.says}, not {shown(value)}", nearest(value, self.words))
        return self.make(value)


@attrs.frozen
class ListOf:
    """A list without repetitions, made into another collection; ``single`` accepts one bare element too."""

    element: Kind
    make: Callable[[list[Any]], Any] = tuple
    least: int = 0
    most: int = 64
    unique: bool = True
    single: bool = False

    @property
    def says(self) -> str:
        return f"{self.element.says}, or a list of them" if self.single else f"list, each a {self.element.says}"

    def read(self, value: Any, place: Place, faults: ProblemList) -> Any:
        """See Kind."""
        if not isinstance(value, list):
            return self._read_single(value, place, faults)
        if not self.least <= len(value) <= self.most:
            faults.add(place, f"must have {self.least} to {self.most} elements, not {len(value)}")
            return FAULTY
        read = [self.element.read(one, place.at(index), faults) for index, one in enumerate(value)]
        repeated = self._note_repeated(value, place, faults) if self.unique else False
        return FAULTY if repeated or FAULTY in read else self.make(read)

    def _read_single(self, value: Any, place: Place, faults: ProblemList) -> Any:
        if not self.single:
            faults.add(place, f"must be a list, not {kind_of(value)}")
            return FAULTY
        read = self.element.read(value, place, faults)
        return read if read is FAULTY else self.make([read])

    def _note_repeated(self, value: list[Any], place: Place, faults: ProblemList) -> bool:
        again = [index for index, one in enumerate(value) if one in value[:index]]
        for index in again:
            faults.add(place.at(index), f"{shown(value[index])} is named twice")
        return bool(again)


@attrs.frozen
class Pairs:
    """A table of texts, made into pairs; ``name`` and ``text`` check its keys and values, keys without case."""

    name: Text
    text: Text
    most: int = 32
    says: str = "table of texts"

    def read(self, value: Any, place: Place, faults: ProblemList) -> Any:
        """See Kind."""
        if not isinstance(value, dict):
            faults.add(place, f"must be a table of texts, not {kind_of(value)}")
            return FAULTY
        if len(value) > self.most:
            faults.add(place, f"must have at most {self.most} entries, not {len(value)}")
            return FAULTY
        before = len(faults.problems)
        pairs = tuple(self._pair(name, text, place.at(name), faults) for name, text in value.items())
        self._note_repeated(value, place, faults)
        return pairs if len(faults.problems) == before else FAULTY

    def _pair(self, name: str, text: Any, place: Place, faults: ProblemList) -> tuple[Any, Any]:
        return self.name.read(name, place, faults), self.text.read(text, place, faults)

    def _note_repeated(self, value: dict[str, Any], place: Place, faults: ProblemList) -> None:
        seen: set[str] = set()
        for name in value:
            if name.lower() in seen:
                faults.add(place.at(name), "is named twice, apart from upper and lower case")
            seen.add(name.lower())


@attrs.frozen
class OneOf(Leaf):
    """A value of any of several kinds that cannot be taken for each other."""

    kinds: tuple[Leaf, ...]
    says: str

    def accept(self, value: Any) -> Any:
        for kind in self.kinds:
            try:
                return kind.accept(value)
            except Refused:
                continue
        raise Refused(f"must be a {self.says}, not {shown(value)}")


@attrs.frozen
class Json(Leaf):
    """Anything that JSON can say."""

    says: str = "anything that JSON can say"

    def accept(self, value: Any) -> Any:
        _refuse_unsayable(value, MAX_JSON_DEPTH)
        if len(json.dumps(value)) > MAX_JSON:
            raise Refused(f"is longer than {MAX_JSON // 1024} KiB as JSON")
        return value


def _refuse_unsayable(value: Any, depth: int) -> None:
    if depth == 0:
        raise Refused(f"is nested more than {MAX_JSON_DEPTH} levels deep")
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            _refuse_unsayable(one, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Refused("holds inf or nan, which JSON cannot say")
    elif not isinstance(value, str | int | float):
        raise Refused("holds a date or time, which JSON cannot say: write it as a text")


def _digits(number: float) -> str:
    """A number for a message; one of thousands of digits is not worth reading (and Python refuses to write it)."""
    return "one of so many digits" if isinstance(number, int) and abs(number) > 10**30 else str(number)
