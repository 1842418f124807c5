"""``history`` and ``show`` from plain values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from gpumand.cli.render.history import details, history_lines, user_name
from gpumand.cli.render.show import off_by, show_lines
from gpumand.cli.render.theme import Theme
from tests.unit.cli import samples
from tests.unit.cli.samples import MINUTE, NOW

PLAIN = Theme(width=100, color=False)
DAY = 24 * 60 * MINUTE
NOBODY = 3_999_999_999


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def entry(kind: str, **changes: Any) -> dict[str, Any]:
    return {"at_usec": NOW, "kind": kind, "consumer": "mvoice", "device": "0"} | changes


def lines(*entries: dict[str, Any], look: Theme = PLAIN) -> list[str]:
    return [line.plain for line in history_lines(entries, NOW, look)]


def test_every_kind_has_its_word_and_what_says_nothing_is_a_dash() -> None:
    kinds = ("grant", "end", "refusal", "load", "load-failed", "eviction", "eviction-failed", "novelty")
    words = [line.split("  ")[1] for line in lines(*map(entry, kinds))[1:]]
    assert words == [
        "granted",
        "lease ended",
        "refused",
        "loaded",
        "load failed",
        "evicted",
        "eviction failed",
        "novelty",
    ]
    assert lines(entry("load"))[1].split() == ["22:13:20", "loaded", "mvoice", "0", "-", "-"]


def test_today_needs_no_date_and_yesterday_brings_it_to_all() -> None:
    assert lines(entry("load"))[1].startswith("22:13:20  ")
    both = lines(entry("load"), entry("load", at_usec=NOW - DAY))
    assert [line[:19] for line in both[1:]] == ["2023-11-14 22:13:20", "2023-11-13 22:13:20"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trigger": "llm", "method": "http", "detail": "never used"}, "for llm; by http; never used"),
        ({"trigger": "manual", "method": "unit-stop"}, "by hand; by unit-stop"),
        ({"trigger": "manual", "method": "http", "detail": "asked for by hand"}, "by hand; by http"),
        ({"trigger": "idle"}, "it was idle"),
        ({"uid": NOBODY, "lease": "abc", "detail": "poster"}, f"poster; uid {NOBODY}, lease abc"),
        ({"uid": 0}, "root"),
        ({}, ""),
    ],
)
def test_details_say_for_whom_by_what_why_and_whose(changes: dict[str, Any], words: str) -> None:
    assert details(entry("eviction", **changes)) == words


@pytest.mark.parametrize("zone", ["UTC", "UTC-14", "UTC+12"])
def test_figures_and_moments_that_cannot_be_do_no_harm(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    odd = entry("eviction", at_usec=2**63, mib=0, duration_usec=0, detail="\x1b[2J\nx", device="\x07")
    assert all(line.isprintable() for line in lines(odd, entry("load", at_usec=0)))


def test_a_narrow_screen_keeps_time_what_and_whom() -> None:
    narrow = lines(entry("eviction", mib=1, detail="x" * 200), look=Theme(width=60))
    assert max(map(len, narrow)) <= 60
    assert narrow[1].startswith("22:13:20  evicted  mvoice")


def test_users_are_told_by_name_where_they_have_one() -> None:
    assert user_name(0) == "root"
    assert user_name(NOBODY) == f"uid {NOBODY}"
    assert user_name(2**64) == f"uid {2**64}"


LEARNED = {
    "steady_mib": 2851,
    "peak_mib": 3301,
    "residual_mib": 240,
    "stays": 12,
    "loads": [
        {"start": "cold", "count": 3, "mean_usec": 18_400_000, "max_usec": 20_000_000},
        {"start": "parked", "count": 1, "mean_usec": 700_000, "max_usec": 700_000},
    ],
    "unloads": [{"method": "http", "count": 9, "mean_usec": 800_000, "max_usec": 1_200_000}],
    "holds": {"count": 0, "mean_usec": 0, "max_usec": 0},
}


def shown(learned: dict[str, Any] = LEARNED, /, **changes: Any) -> list[str]:
    consumer = samples.consumer("mvoice", "resident", used_mib=2851, evict=["http", "unit-stop"], **changes)
    document = {"consumer": consumer, "learned": learned, "leases": [], "queue": [], "history": [], "plan": {}}
    return [line.plain for line in show_lines(document, NOW, Theme(width=120))]


def test_show_puts_what_was_measured_beside_what_is_declared() -> None:
    assert shown(last_used_usec=NOW - 3 * MINUTE, pinned=True) == [
        "● mvoice: resident on GPU 0, holds 2.8 GiB",
        "  footprint   2.8 GiB (declared)",
        "  measured    2.8 GiB at rest, 3.2 GiB at most, 240 MiB left after its unload route; over 12 stays in VRAM",
        "  warning     it holds 15 % more than is declared; write vram_resident_mib = 3301",
        "  loads in    18 s (longest of 3: 20 s) from a cold start; 0.7 s while its server runs",
        "  unloads in  0.8 s (longest of 9: 1.2 s) by http",
        "  evicted by  http, then unit-stop",
        "  unit        mvoice.service",
        "  last used   3 min ago",
        "  note        pinned: it is not evicted to make room",
    ]


def test_show_of_a_footprint_that_is_left_to_be_measured_warns_of_nothing() -> None:
    text = "\n".join(shown(vram_auto=True))
    assert "(not declared: measured)" in text
    assert "(a guess, until it is measured)" in "\n".join(shown({}, vram_auto=True))
    assert "warning" not in text


def test_a_tenth_off_is_wrong_and_less_is_not() -> None:
    declared = samples.consumer("a", vram_resident_mib=1000)
    assert off_by(declared, {"peak_mib": 1100}) == ""
    assert off_by(declared, {"peak_mib": 899}).startswith("it holds 10 % less than is declared")
    assert off_by(declared, {}) == ""
