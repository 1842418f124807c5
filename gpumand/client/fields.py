"""Reads the dictionary of an answer and checks the type of every key."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gpumand.client.errors import Mismatch

REQUIRED = "\0"
"""Marks a key without a default, which must be present. No string of the bus contains a NUL character."""


class Fields:
    """One dictionary of an answer. Every method raises Mismatch, with the key, for a missing or invalid value.

    Args:
        what: name of the dictionary for messages, for example "the grant".
        answer: the dictionary, as the bus delivered it.
    """

    def __init__(self, what: str, answer: object) -> None:
        if not isinstance(answer, Mapping):
            raise Mismatch(f"{what} is not a dictionary")
        self._what = what
        self._answer = answer

    def text(self, key: str, default: str = REQUIRED) -> str:
        """A string."""
        if key not in self._answer and default != REQUIRED:
            return default
        value = self._answer.get(key)
        return value if isinstance(value, str) else self._mismatch(key, "a string")

    def number(self, key: str, default: int | None = None) -> int:
        """An integer."""
        if key not in self._answer and default is not None:
            return default
        value = self._answer.get(key)
        # A boolean is an integer to Python, but not on the bus.
        return value if isinstance(value, int) and not isinstance(value, bool) else self._mismatch(key, "an integer")

    def optional_number(self, key: str) -> int | None:
        """An integer; None if the key is missing, which stands for unknown."""
        return self.number(key) if key in self._answer else None

    def optional_real(self, key: str) -> float | None:
        """A number; None if the key is missing, which stands for unknown."""
        value = self._answer.get(key)
        if value is None:
            return None
        return float(value) if isinstance(value, (int, float)) else self._mismatch(key, "a number")

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A boolean."""
        if key not in self._answer and default is not None:
            return default
        value = self._answer.get(key)
        return value if isinstance(value, bool) else self._mismatch(key, "a boolean")

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty if the key is missing."""
        values = self._list(key)
        return tuple(value if isinstance(value, str) else self._mismatch(key, "a list of strings") for value in values)

    def tables(self, key: str) -> list[Fields]:
        """A list of dictionaries; empty if the key is missing."""
        return [Fields(f"an entry of {self._what}'s {key}", value) for value in self._list(key)]

    def table(self, key: str) -> Fields:
        """A dictionary; empty if the key is missing."""
        return Fields(f"{self._what}'s {key}", self._answer.get(key, {}))

    def numbers(self) -> dict[str, int]:
        """All integers of the dictionary, by key."""
        # type() and not isinstance: a boolean is an int in Python.
        return {str(key): self.number(key) for key, value in self._answer.items() if type(value) is int}

    def seconds(self, key: str, default: int | None = None) -> float:
        """A duration in seconds; on the bus it is in microseconds."""
        return self.number(key, default) / 1_000_000

    def optional_seconds(self, key: str) -> float | None:
        """A duration in seconds; None if the key is missing, which stands for unknown."""
        return self.seconds(key) if key in self._answer else None

    def time(self, key: str) -> datetime | None:
        """A point in time; None for 0 or if the key is missing."""
        return self._time(key, self.number(key, 0))

    def _time(self, key: str, usec: int) -> datetime | None:
        try:
            return datetime.fromtimestamp(usec / 1_000_000, UTC) if usec else None
        except (ValueError, OverflowError, OSError):
            raise Mismatch(f"{self._what}: {key} is not a valid time") from None

    def _list(self, key: str) -> list[Any]:
        values = self._answer.get(key, [])
        return values if isinstance(values, list) else self._mismatch(key, "a list")

    def _mismatch(self, key: str, type_name: str) -> Any:
        found = "is missing" if key not in self._answer else f"is not {type_name}"
        raise Mismatch(f"{self._what}: {key} {found}")
