"""Parses points in time in journalctl's notation: ``yesterday``, ``10:30``, ``2026-11-24 18:00``, ``2 h ago``."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from gpumand.cli.durations import parse_duration

if TYPE_CHECKING:
    _Type = click.ParamType[int]
else:  # in click 8.1 ParamType is not generic at run time
    _Type = click.ParamType

DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
USEC = 1_000_000

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"(\d\d?):(\d\d)(?::(\d\d)(?:[.,](\d{1,6}))?)?")
_ZONE = re.compile(r"\s*(Z|UTC|[+-]\d\d:?\d\d)$", re.IGNORECASE)


def parse_timestamp(text: str, now: datetime) -> int:
    """The point in time that a text denotes, in microseconds since 1970.

    Args:
        text: "now"; "today", "yesterday" or "tomorrow"; a time of day, for today; a date, with a time or for its
            midnight. A time in UTC or with an offset ends in "UTC", "Z" or the offset; otherwise it is local.
            Also "@" with seconds since 1970, and a duration before now, with or without "ago" or a leading "-".
        now: the current time, with its time zone.

    Raises:
        ValueError: the text is not a time; its message is one line for the user.
    """
    stripped = " ".join(text.split())
    if stripped == "now":
        return _usec(now)
    if stripped.startswith("@"):
        return _since_1970(stripped[1:], text)
    moment = _moment(stripped, now, text)
    return moment if moment is not None else _ago(stripped, now, text)


def _moment(stripped: str, now: datetime, text: str) -> int | None:
    """Parse a day, a time of day, or both; None when the text has the shape of neither."""
    zone = _ZONE.search(stripped)
    plain = stripped[: zone.start()] if zone else stripped
    day_word, _, clock = plain.replace("T", " ", 1).partition(" ") if _DATE.match(plain) else plain.partition(" ")
    if _TIME.fullmatch(day_word) and not clock:
        day_word, clock = "today", day_word
    if day_word not in DAYS and not _DATE.fullmatch(day_word):
        return None
    try:
        offset = _offset(zone[1]) if zone else None
        return _usec(_at(_midnight(day_word, now), clock, offset))
    except (ValueError, OverflowError, OSError):  # OSError: a year that the C library cannot convert
        raise ValueError(
            f"'{text}' is not a time; write, for example, 10:30, 2026-11-24 or '2026-11-24 10:30'"
        ) from None


def _midnight(day: str, now: datetime) -> datetime:
    """The start of a day, without a time zone."""
    if day in DAYS:
        return datetime.combine(now.date() + timedelta(days=DAYS[day]), datetime.min.time())
    return datetime.fromisoformat(day)


def _at(midnight: datetime, clock: str, offset: str | None) -> datetime:
    """A time of day on a day, in the given offset; without one, in the local zone with the offset of that day."""
    moment = midnight
    if clock:
        found = _TIME.fullmatch(clock)
        if found is None:
            raise ValueError(clock)
        hour, minute, second = (int(part or 0) for part in found.groups()[:3])
        moment = midnight.replace(hour=hour, minute=minute, second=second)
        moment += timedelta(microseconds=int((found[4] or "0").ljust(6, "0")))
    return datetime.fromisoformat(moment.isoformat() + offset) if offset else moment.astimezone()


def _offset(zone: str) -> str:
    return "+00:00" if zone.upper() in ("Z", "UTC") else zone


def _ago(stripped: str, now: datetime, text: str) -> int:
    """Parse a duration before now."""
    span = stripped.removesuffix(" ago").removesuffix("ago").removeprefix("-").strip()
    try:
        seconds = parse_duration(span)
    except ValueError:
        raise ValueError(f"'{text}' is not a time; write, for example, 10:30, yesterday or '2h ago'") from None
    if span.replace(".", "").isdigit():
        raise ValueError(f"'{text}' has no unit; write {span}s, {span}min or {span}h")
    return max(0, _usec(now) - round(seconds * USEC))


def _since_1970(digits: str, text: str) -> int:
    try:
        seconds = float(digits)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e11:
        raise ValueError(f"'{text}' is not a time; write seconds since 1970 after the @")
    return round(seconds * USEC)


def _usec(moment: datetime) -> int:
    """Microseconds since 1970; the timestamp as a float of seconds would lose digits."""
    whole = moment.replace(microsecond=0)
    return max(0, int(whole.timestamp()) * USEC + moment.microsecond)


class Timestamp(_Type):
    """Click parameter type for a point in time; its value is in microseconds since 1970."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the value; a usage error when it is not a time."""
        if isinstance(value, int):
            return value
        try:
            return parse_timestamp(str(value), datetime.fromtimestamp(time.time()).astimezone())
        except ValueError as error:
            self.fail(str(error), param, ctx)


TIMESTAMP = Timestamp()
