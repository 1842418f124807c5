"""Parses durations in systemd's notation: ``90s``, ``15min``, ``1h 30m``, ``250ms``; a bare number is seconds."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    _Type = click.ParamType[float]
else:  # in click 8.1 ParamType is not generic at run time
    _Type = click.ParamType

UNITS = {
    "us": 1e-6,
    "usec": 1e-6,
    "ms": 1e-3,
    "msec": 1e-3,
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "m": 60.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "d": 86400.0,
    "day": 86400.0,
    "days": 86400.0,
    "w": 604800.0,
    "week": 604800.0,
    "weeks": 604800.0,
}
LONGEST_SEC = 100 * 365 * 86400.0
"""100 years. A longer duration is a typing error, and its microseconds would overflow."""

_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


def parse_duration(text: str) -> float:
    """The duration in seconds.

    Raises:
        ValueError: the text is not a duration; its message is one line for the user.
    """
    position, parts, stripped = 0, [], text.strip()
    while position < len(stripped) and (part := _PART.match(stripped, position)):
        parts.append(part.groups())
        position = part.end()
    # A number without a unit is seconds only when it stands alone: 1h30 is likely to mean 30 minutes.
    is_unambiguous = len(parts) == 1 or all(unit for _, unit in parts)
    if not parts or position < len(stripped) or not is_unambiguous:
        raise ValueError(f"'{text}' is not a duration; write, for example, 90s, 15min or 1h30m")
    total = sum(float(number) * _factor(unit) for number, unit in parts)
    if total > LONGEST_SEC:
        raise ValueError(f"'{text}' is not a duration that is supported; the longest is 100 years")
    return total


def _factor(unit: str) -> float:
    """Seconds in one unit; "" is seconds."""
    if not unit:
        return 1.0
    if unit not in UNITS:
        raise ValueError(f"'{unit}' is not a unit of time; use us, ms, s, min, h, d or w")
    return UNITS[unit]


def to_usec(seconds: float) -> int:
    """Seconds to microseconds, the unit of durations on D-Bus."""
    return round(seconds * 1_000_000)


def timeout_usec(seconds: float) -> dict[str, tuple[str, Any]]:
    """The option of a D-Bus call that limits how long the daemon lets it wait."""
    return {"timeout_usec": ("t", to_usec(seconds))}


class Duration(_Type):
    """Click parameter type for a duration; its value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parse the value; a usage error when it is not a duration."""
        if isinstance(value, float):
            return value
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
