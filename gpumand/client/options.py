"""What is asked for, checked here and put as the bus takes it; what was not given is left to the daemon."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from gpumand.domain.errors import InvalidArgs

if TYPE_CHECKING:
    from datetime import datetime

Options = Mapping[str, tuple[str, Any]]
"""Options of a call by name: signature and value."""

LONGEST_SEC = 100 * 365 * 86400.0
"""A time to live beyond a century is a slip, and would not fit everywhere."""

MOST_ENTRIES = 1000
"""How many entries of the history one answer holds."""


def to_usec(seconds: float) -> int:
    """Microseconds, as D-Bus has them."""
    return round(seconds * 1_000_000)


def wait_sec(timeout_sec: float | None) -> float:
    """How long to wait; None is as long as it takes, which is a day at most. Raises InvalidArgs."""
    from gpumand.domain.request import MAX_WAIT_SEC

    if timeout_sec is None:
        return MAX_WAIT_SEC
    if not _is_number(timeout_sec) or math.isnan(timeout_sec) or timeout_sec < 0:
        raise InvalidArgs(f"timeout_sec must be 0 or more, not {timeout_sec!r}")
    return min(timeout_sec, MAX_WAIT_SEC)


def text(name: str, value: str) -> str:
    """A string that can go onto the bus. Raises InvalidArgs."""
    if not isinstance(value, str):
        raise InvalidArgs(f"{name} must be a string, not {value!r}")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise InvalidArgs(f"{name} holds what cannot go onto the bus: {value!r}")
    return value


def acquire_options(
    lifetime: str,
    timeout_sec: float,
    *,
    ttl_sec: float | None = None,
    priority: int | None = None,
    **texts: str,
) -> dict[str, tuple[str, Any]]:
    """Options of Acquire, and some of them of Load and Plan.

    Args:
        lifetime: "ttl", "connection" or "unit"; "" = not said.
        timeout_sec: how long to wait, from 0 (now or not at all) to a day.
        ttl_sec: for ``ttl``; None = as configured.
        priority: -100 to 100; None = the consumer's.
        texts: ``device``, ``reason``, ``token``; "" = not given.

    Raises:
        InvalidArgs: one of them cannot be meant.
    """
    given: dict[str, tuple[str, Any]] = {"lifetime": ("s", lifetime)} if lifetime else {}
    given["timeout_usec"] = ("t", to_usec(timeout_sec))
    if ttl_sec is not None:
        given["ttl_usec"] = ("t", ttl_usec(ttl_sec))
    return given | where_options(priority, **texts)


def where_options(priority: int | None = None, **texts: str) -> dict[str, tuple[str, Any]]:
    """Priority and strings, as far as given. Raises InvalidArgs."""
    from gpumand.domain.request import MAX_PRIORITY, MIN_PRIORITY

    given: dict[str, tuple[str, Any]] = {}
    if priority is not None:
        if not isinstance(priority, int) or not MIN_PRIORITY <= priority <= MAX_PRIORITY:
            raise InvalidArgs(f"priority must be from {MIN_PRIORITY} to {MAX_PRIORITY}, not {priority!r}")
        given["priority"] = ("i", priority)
    return given | {name: ("s", text(name, value)) for name, value in texts.items() if value}


def ttl_usec(ttl_sec: float) -> int:
    """A time to live. Raises InvalidArgs where nothing would be left of it."""
    if not _is_number(ttl_sec) or not 0 < ttl_sec <= LONGEST_SEC or to_usec(ttl_sec) == 0:
        raise InvalidArgs(f"ttl_sec must be more than 0, not {ttl_sec!r}")
    return to_usec(ttl_sec)


def history_options(
    since: datetime | None, until: datetime | None, consumer: str, kinds: Iterable[str], limit: int
) -> dict[str, tuple[str, Any]]:
    """Options of GetHistory. Raises InvalidArgs."""
    if not isinstance(limit, int) or not 1 <= limit <= MOST_ENTRIES:
        raise InvalidArgs(f"limit must be from 1 to {MOST_ENTRIES}, not {limit!r}")
    given: dict[str, tuple[str, Any]] = {"limit": ("u", limit)} | where_options(consumer=consumer)
    bounds = {"since": since, "until": until}
    given |= {f"{name}_usec": ("t", _usec_of(name, bound)) for name, bound in bounds.items() if bound is not None}
    wanted = [text("kinds", kind) for kind in kinds]
    return given | ({"kinds": ("as", wanted)} if wanted else {})


def _usec_of(name: str, moment: datetime) -> int:
    usec = to_usec(moment.timestamp())
    if usec < 0:
        raise InvalidArgs(f"{name} is before 1970: {moment}")
    return usec


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)
