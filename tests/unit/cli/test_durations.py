"""Parsing and printing of durations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.cli.durations import parse_duration, to_usec
from gpumand.cli.render.format import ago, ahead, duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("15min", 900),
        ("15m", 900),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        (" 2 d ", 172_800),
        ("250ms", 0.25),
        ("1.5h", 5400),
        ("10us", 1e-5),
        ("1w", 604_800),
        ("0", 0),
    ],
)
def test_durations_are_parsed_as_systemd_parses_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", " ", "soon", "-5s", "5 parsecs", "1h30", "10 20", "s", "1e400", "9" * 40, "5s!"])
def test_an_invalid_duration_is_refused_with_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (duration|unit of time)"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**9), st.sampled_from(["ms", "s", "min", "h"]))
def test_whole_numbers_convert_to_microseconds_without_loss(number: int, unit: str) -> None:
    factor = {"ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000}[unit]
    try:
        seconds = parse_duration(f"{number}{unit}")
    except ValueError:
        assert number * factor > 3_153_000_000_000_000
        return
    assert to_usec(seconds) == number * factor


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.04, "40 ms"),
        (0.0999, "0.1 s"),
        (1.24, "1.2 s"),
        (9.97, "10 s"),
        (47.2, "47 s"),
        (59.7, "1 min"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_printed_in_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_timestamps_are_printed_relative_to_now() -> None:
    now = 10_000_000_000
    assert [ago(0, now), ago(now, now), ago(now - 61_000_000, now)] == ["never", "0 s ago", "1 min ago"]
    assert [ahead(0, now), ahead(now - 1, now), ahead(now + 900_000_000, now)] == ["-", "now", "in 15 min"]
