"""Parsing of points in time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.timestamps import parse_timestamp

NOON = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC)
"""A Wednesday; 13:00 in Berlin."""


@pytest.fixture(autouse=True)
def berlin() -> Iterator[None]:
    """A time zone with summer time, in a notation that needs no zone files."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def parsed(text: str) -> datetime:
    return datetime.fromtimestamp(parse_timestamp(text, NOON.astimezone()) / 1_000_000, UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", "2026-11-25T12:00:00"),
        ("today", "2026-11-24T23:00:00"),
        ("yesterday", "2026-11-23T23:00:00"),
        ("tomorrow", "2026-11-25T23:00:00"),
        ("yesterday 8:15", "2026-11-24T07:15:00"),
        ("10:30", "2026-11-25T09:30:00"),
        ("10:30:15", "2026-11-25T09:30:15"),
        ("9:05", "2026-11-25T08:05:00"),
        ("2026-11-24", "2026-11-23T23:00:00"),
        ("2026-11-24 10:30", "2026-11-24T09:30:00"),
        ("2026-11-24T10:30:01", "2026-11-24T09:30:01"),
        ("2026-11-24T10:30:01Z", "2026-11-24T10:30:01"),
        ("2026-11-24 10:30 UTC", "2026-11-24T10:30:00"),
        ("2026-11-24T10:30:01+05:30", "2026-11-24T05:00:01"),
        ("2026-11-24T10:30:01-0800", "2026-11-24T18:30:01"),
        ("2026-07-01 10:30", "2026-07-01T08:30:00"),
        ("2h ago", "2026-11-25T10:00:00"),
        ("2 h ago", "2026-11-25T10:00:00"),
        ("  1h 30min   ago ", "2026-11-25T10:30:00"),
        ("90min", "2026-11-25T10:30:00"),
        ("-1d", "2026-11-24T12:00:00"),
        ("3 weeks ago", "2026-11-04T12:00:00"),
        ("@1700000000", "2023-11-14T22:13:20"),
    ],
)
def test_timestamps_are_parsed_as_journalctl_parses_them(text: str, expected: str) -> None:
    assert parsed(text).replace(tzinfo=None).isoformat() == expected


def test_microseconds_are_kept() -> None:
    assert parse_timestamp("2026-11-24 10:30:00.000001", NOON) % 1_000_000 == 1
    assert parse_timestamp("2026-11-24 10:30:00.25", NOON) % 1_000_000 == 250_000


def test_a_time_that_summer_time_skips_is_accepted() -> None:
    skipped = parsed("2026-03-29 02:30")
    assert skipped in (datetime(2026, 3, 29, 0, 30, tzinfo=UTC), datetime(2026, 3, 29, 1, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "soon",
            "5",
            "25:00",
            "10:61",
            "2026-13-01",
            "2026-02-30",
            "2026-11-24 noon",
            "2 parsecs ago",
            "@x",
            "@-1",
        ),
        *("ago", "20261124", "yesterday 10:30 12:00", "2026-11-24 10:30+99:99", "@1e300", "@nan"),
    ],
)
def test_an_invalid_timestamp_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"\A'.*' (is not a time|has no unit)") as caught:
        parse_timestamp(text, NOON)
    assert "\n" not in str(caught.value)


def test_a_number_without_a_unit_is_refused_with_examples() -> None:
    with pytest.raises(ValueError, match="write 5s, 5min or 5h"):
        parse_timestamp("5", NOON)


@given(st.text(max_size=40))
def test_any_text_gives_a_timestamp_or_a_value_error(text: str) -> None:
    try:
        moment = parse_timestamp(text, NOON)
    except ValueError:
        return
    assert moment >= 0


@given(st.integers(0, 4_000_000_000), st.integers(-23, 23))
def test_iso_timestamps_with_an_offset_round_trip(seconds: int, hours: int) -> None:
    there = timezone(timedelta(hours=hours))
    text = datetime.fromtimestamp(seconds, there).isoformat(sep=" ")
    assert parse_timestamp(text, NOON) == seconds * 1_000_000
