"""Configuration errors, each with its file, line and key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gpumand.config.positions import KeyPath, Position, find_keys
from gpumand.domain.errors import ConfigInvalid

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One error in the configuration.

    Attributes:
        file: the file that contains the error, or the path that was requested.
        line, column: position, both counted from 1; 0 if there is no position.
        key: dotted key as written in TOML; "" if the error does not concern a key.
        message: what is wrong and what to write, in one line.
        hint: the most similar known name; "" if there is none.
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
    """The configuration has errors and cannot be used.

    The message has the first problem and the number of further ones. ``problems`` has all of them, sorted by file (in
    reading order), line and column.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        self.problems = tuple(problems)
        more = len(self.problems) - 1
        super().__init__(str(self.problems[0]) + (f" (and {more} more)" if more else ""))


@dataclass(frozen=True)  # without slots, for cached_property
class Document:
    """One configuration file that was read and parsed.

    Attributes:
        file: its path.
        table: its content as parsed by tomllib.
        text: its content.
    """

    file: str
    table: dict[str, Any]
    text: str

    @cached_property
    def positions(self) -> dict[KeyPath, Position]:
        """The position of each key; only problems have positions, and finding all of them takes as long as parsing."""
        return find_keys(self.text)

    def position(self, path: KeyPath) -> Position:
        """Return the position of a key; for a missing key, the position of the table that should contain it."""
        while path and path not in self.positions:
            path = path[:-1]
        return self.positions.get(path, Position())


@dataclass(frozen=True, slots=True)
class Place:
    """The location of a key in a document; the key may be missing there."""

    document: Document
    path: KeyPath = ()

    def at(self, *keys: str | int) -> Place:
        """Return the place that is reached from here by these keys."""
        return Place(self.document, (*self.path, *keys))

    @property
    def key(self) -> str:
        """The dotted key as written in TOML, for example ``consumers."my tts".evict[1]``."""
        parts = [f"[{part}]" if isinstance(part, int) else f".{_toml_key(part)}" for part in self.path]
        return "".join(parts).removeprefix(".")

    def __str__(self) -> str:
        line = self.document.position(self.path).line
        return f"{self.document.file}:{line}" if line else self.document.file


@dataclass(slots=True)
class ProblemList:
    """Collects problems while files are read, so that all of them are reported at once."""

    entries: list[ConfigProblem] = field(default_factory=list)

    def add(self, place: Place, message: str, hint: str = "") -> None:
        """Add a problem of a key.

        Args:
            place: the key.
            message: what is wrong and what to write instead, in one line.
            hint: the name that was probably meant, or "".
        """
        position = place.document.position(place.path)
        self.entries.append(
            ConfigProblem(place.document.file, position.line, position.column, place.key, message, hint)
        )

    def add_file(self, file: object, message: str, position: Position | None = None) -> None:
        """Add a problem of a whole file, or of its syntax at a position."""
        at = position or Position()
        self.entries.append(ConfigProblem(str(file), at.line, at.column, "", message))

    def raise_any(self, files: Iterable[str]) -> None:
        """Raise ConfigProblems if there is any problem.

        Args:
            files: the files in the order in which they were read; problems are sorted by it.
        """
        order = {file: number for number, file in enumerate(files)}
        if self.entries:
            last = len(order)
            raise ConfigProblems(
                sorted(self.entries, key=lambda one: (order.get(one.file, last), one.line, one.column))
            )


def problem_lines(error: ConfigInvalid) -> list[str]:
    """Return all problems of an invalid configuration, one line each; ``error.message`` has only the first."""
    # Other subclasses of ConfigInvalid have only a message.
    return [str(problem) for problem in getattr(error, "problems", (error.message,))]


def quoted(value: object) -> str:
    """Format a value for a message: one printable line of at most 80 characters."""
    text = f'"{repr(value)[1:-1]}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else quoted(key)
