"""Demand: who wants which consumer, when, and for how long; from a file or from users who wait for their answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gpumand.domain.request import MAX_PRIORITY, MIN_PRIORITY

MAX_USES = 2_000_000
MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a consumer that is wanted.

    Attributes:
        t: when, in seconds from any moment.
        consumer: what for.
        hold_sec: how long it works once it has been granted.
        client: whose it is; requests of one client are one user's.
        priority: -100 to 100; None = its consumer's.
    """

    t: float
    consumer: str
    hold_sec: float
    client: str = ""
    priority: int | None = None


class Demand(Protocol):
    """Where uses come from."""

    def first(self) -> Sequence[Use]:
        """Those that come whatever happens."""

    def after(self, use: Use, ended_at: float) -> Sequence[Use]:
        """Those that come because one has ended at that moment; none of them earlier."""


@dataclass(frozen=True, slots=True)
class OpenDemand:
    """Demand that comes at its times, whether it is served or not."""

    uses: Sequence[Use]

    def first(self) -> Sequence[Use]:
        """All of it."""
        return self.uses

    def after(self, use: Use, ended_at: float) -> Sequence[Use]:
        """Nothing."""
        return ()


def read(lines: Iterable[str], name: str = "demand") -> list[Use]:
    """Read demand as JSON lines, in order of time; times count from the first.

    Args:
        lines: one object a line with ``t``, ``consumer``, ``hold_sec`` and perhaps ``client`` and ``priority``; what
            else there is is passed over.
        name: what to call it in an error.

    Raises:
        ValueError: for a line that is none, with its number.
    """
    uses = sorted(_read_all(lines, name), key=lambda use: use.t)
    start = uses[0].t if uses else 0.0
    return [replace(use, t=use.t - start) for use in uses]


def _read_all(lines: Iterable[str], name: str) -> Iterator[Use]:
    for number, line in enumerate(lines, start=1):
        if number > MAX_USES:
            raise ValueError(f"{name}: more than {MAX_USES} lines")
        if line.strip():
            try:
                yield _use(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name}:{number}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return "is no JSON object" if isinstance(error, json.JSONDecodeError | RecursionError) else str(error)


def _use(entry: Any) -> Use:
    if not isinstance(entry, dict):
        raise ValueError("is no JSON object")
    return Use(
        t=_seconds(entry, "t", 1e12),
        consumer=_text(entry.get("consumer"), "consumer"),
        hold_sec=_seconds(entry, "hold_sec", 1e7),
        client=_text(str(entry.get("client", "")), "client", least=0),
        priority=_priority(entry.get("priority")),
    )


def _priority(value: Any) -> int | None:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and not (is_whole and MIN_PRIORITY <= value <= MAX_PRIORITY):
        raise ValueError(f"priority must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}")
    return value if is_whole else None


def _seconds(entry: dict[Any, Any], key: str, most: float) -> float:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{key} must be a number of seconds from 0 to {most:g}")
    return float(value)


def _text(value: Any, key: str, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= MAX_TEXT:
        raise ValueError(f"{key} must be text of at most {MAX_TEXT} characters")
    return value


def written(uses: Iterable[Use]) -> Iterator[str]:
    """Demand as JSON lines, as ``read`` reads them."""
    for use in uses:
        entry: dict[str, Any] = {"t": round(use.t, 3), "consumer": use.consumer, "hold_sec": round(use.hold_sec, 3)}
        if use.client:
            entry["client"] = use.client
        if use.priority is not None:
            entry["priority"] = use.priority
        yield json.dumps(entry) + "\n"
