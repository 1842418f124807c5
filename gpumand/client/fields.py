"""An answer's dictionary, believed only as far as it is what the interface says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from gpumand.client.errors import Mismatch

REQUIRED = "\0"
"""Stands for no default: a key that must be there."""


class Fields:
    """One dictionary of an answer. Every method raises Mismatch, naming the key, for what cannot be meant."""

    def __init__(self, what: str, answer: object) -> None:
        if not isinstance(answer, Mapping):
            raise Mismatch(f"{what} is no dictionary")
        self._what = what
        self._answer = answer

    def text(self, key: str, default: str = REQUIRED) -> str:
        """A string."""
        if key not in self._answer and default != REQUIRED:
            return default
        value = self._answer.get(key)
        return value if isinstance(value, str) else self._refuse(key, "string")

    def number(self, key: str, default: int | None = None) -> int:
        """An integer."""
        if key not in self._answer and default is not None:
            return default
        value = self._answer.get(key)
        # A boolean is an integer to Python, but not on the bus.
        return value if isinstance(value, int) and not isinstance(value, bool) else self._refuse(key, "integer")

    def known(self, key: str) -> int | None:
        """An integer that is left out where it is unknown."""
        return self.number(key) if key in self._answer else None

    def flag(self, key: str, default: bool | None = None) -> bool:
        """A boolean."""
        if key not in self._answer and default is not None:
            return default
        value = self._answer.get(key)
        return value if isinstance(value, bool) else self._refuse(key, "boolean")

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty where it is left out."""
        values = self._list(key)
        return tuple(value if isinstance(value, str) else self._refuse(key, "list of strings") for value in values)

    def tables(self, key: str) -> list[Fields]:
        """A list of dictionaries; empty where it is left out."""
        return [Fields(f"an entry of {self._what}'s {key}", value) for value in self._list(key)]

    def table(self, key: str) -> Fields:
        """A dictionary; empty where it is left out."""
        return Fields(f"{self._what}'s {key}", self._answer.get(key, {}))

    def numbers(self) -> dict[str, int]:
        """All integers in it, by key."""
        return {str(key): self.number(key) for key, value in self._answer.items() if type(value) is int}

    def seconds(self, key: str, default: int | None = None) -> float:
        """A duration, in seconds; on the bus it is in microseconds."""
        return self.number(key, default) / 1_000_000

    def time(self, key: str) -> datetime | None:
        """A point in time; None for 0 and where it is left out."""
        return self._time(key, self.number(key, 0))

    def _time(self, key: str, usec: int) -> datetime | None:
        try:
            return datetime.fromtimestamp(usec / 1_000_000, UTC) if usec else None
        except (ValueError, OverflowError, OSError):
            raise Mismatch(f"{self._what}: {key} is no time") from None

    def _list(self, key: str) -> list[Any]:
        values = self._answer.get(key, [])
        return values if isinstance(values, list) else self._refuse(key, "list")

    def _refuse(self, key: str, kind: str) -> Any:
        found = "is missing" if key not in self._answer else f"is no {kind}"
        raise Mismatch(f"{self._what}: {key} {found}")
