"""What is wrong with a configuration, each fault with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpumand.config.positions import KeyPath, Position
from gpumand.domain.errors import ConfigInvalid

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One fault.

    Attributes:
        file: the file it is in, or the path that was asked for.
        line, column: where, from 1; 0 where there is no such place.
        key: dotted key as TOML writes it, "" where the fault is not in a key.
        message: what is wrong, in one line.
        hint: the nearest known name, "" when there is none.
    """

    file: str
    line: int
    column: int
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        key = f"{self.key}: " if self.key else ""
        hint = f" (did you mean {self.hint}?)" if self.hint else ""
        return " ".join(f"{place}: {key}{self.message}{hint}".split())


class ConfigProblems(ConfigInvalid):
    """The configuration cannot be used.

    The message is the first problem and how many more there are; ``problems`` has all of them, in the order in which
    somebody reading the files would meet them.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        super().__init__(str(self.problems[0]) + (f" (and {more} more)" if more else ""))


@dataclass(frozen=True, slots=True)
class Document:
    """One file that was read.

    Attributes:
        file: its path.
        table: what tomllib made of it.
        positions: where its keys stand.
    """

    file: str
    table: dict[str, Any]
    positions: dict[KeyPath, Position]

    def position(self, path: KeyPath) -> Position:
        """Where a key stands; for one that is not there, where the table stands that it is missing from."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position())


@dataclass(frozen=True, slots=True)
class Place:
    """A key of a document, present or missing."""

    document: Document
    path: KeyPath = ()

    def at(self, *keys: str | int) -> Place:
        """The place so many keys deeper."""
        return Place(self.document, (*self.path, *keys))

    @property
    def key(self) -> str:
        """The key as TOML writes it: ``consumers."my tts".evict[1]``."""
        parts = [f"[{part}]" if isinstance(part, int) else f".{_written(part)}" for part in self.path]
        return "".join(parts).removeprefix(".")

    def __str__(self) -> str:
        line = self.document.position(self.path).line
        return f"{self.document.file}:{line}" if line else self.document.file


@dataclass(slots=True)
class ProblemList:
    """Collects problems, so that all of them are told at once."""

    problems: list[ConfigProblem] = field(default_factory=list)

    def add(self, place: Place, message: str, hint: str = "") -> None:
        """Note a fault at a key."""
        position = place.document.position(place.path)
        self.problems.append(
            ConfigProblem(place.document.file, position.line, position.column, place.key, message, hint)
        )

    def add_file(self, file: object, message: str, position: Position | None = None) -> None:
        """Note a fault of a file as a whole, or of its syntax."""
        at = position or Position()
        self.problems.append(ConfigProblem(str(file), at.line, at.column, "", message))

    def raise_any(self, files: Iterable[str]) -> None:
        """Raise ConfigProblems if there is a fault; ``files`` is the order in which files were read."""
        order = {file: number for number, file in enumerate(files)}
        if self.problems:
            last = len(order)
            raise ConfigProblems(
                sorted(self.problems, key=lambda one: (order.get(one.file, last), one.line, one.column))
            )


def lines_of(error: ConfigInvalid) -> list[str]:
    """Every problem of a configuration, in a line of its own: the message alone says the first."""
    return [str(problem) for problem in getattr(error, "problems", (error.message,))]


def shown(value: object) -> str:
    """A value for a message: one line, printable, not too long."""
    text = f'"{repr(value)[1:-1]}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _written(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else shown(key)
