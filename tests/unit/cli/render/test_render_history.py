"""Output of ``history`` and ``show`` for plain values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from gpumand.cli.render.format import user_name
from gpumand.cli.render.history import details, history_lines
from gpumand.cli.render.show import footprint_warning, show_lines
from gpumand.cli.render.theme import Theme
from tests.unit.cli import samples
from tests.unit.cli.samples import MINUTE, NOW

PLAIN = Theme(width=100, color=False)
DAY = 24 * 60 * MINUTE
UNKNOWN_UID = 3_999_999_999


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def entry(kind: str, **changes: Any) -> dict[str, Any]:
    return {"at_usec": NOW, "kind": kind, "consumer": "mvoice", "device": "0"} | changes


def lines(*entries: dict[str, Any], theme: Theme = PLAIN) -> list[str]:
    return [line.plain for line in history_lines(entries, NOW, theme)]


def test_every_kind_has_its_text_and_missing_values_are_a_dash() -> None:
    kinds = (
        "grant",
        "end",
        "refusal",
        "load",
        "load-failed",
        "eviction",
        "eviction-failed",
        "eviction-deferred",
        "novelty",
    )
    words = [line.split("  ")[1] for line in lines(*map(entry, kinds))[1:]]
    assert words == [
        "granted",
        "lease ended",
        "refused",
        "loaded",
        "load failed",
        "evicted",
        "eviction failed",
        "unload put off",
        "novelty",
    ]
    assert lines(entry("load"))[1].split() == ["22:13:20", "loaded", "mvoice", "0", "-", "-"]


def test_date_is_shown_only_if_an_entry_is_older_than_today() -> None:
    assert lines(entry("load"))[1].startswith("22:13:20  ")
    both = lines(entry("load"), entry("load", at_usec=NOW - DAY))
    assert [line[:19] for line in both[1:]] == ["2023-11-14 22:13:20", "2023-11-13 22:13:20"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trigger": "llm", "method": "http", "detail": "never used"}, "for llm; by http; never used"),
        ({"trigger": "manual", "method": "unit-stop"}, "manual; by unit-stop"),
        ({"trigger": "manual", "method": "http", "detail": "requested manually"}, "manual; by http"),
        ({"trigger": "idle"}, "idle timeout"),
        ({"uid": UNKNOWN_UID, "lease": "abc", "detail": "poster"}, f"poster; uid {UNKNOWN_UID}, lease abc"),
        ({"uid": 0}, "root"),
        ({}, ""),
    ],
)
def test_details_give_trigger_method_reason_and_owner(changes: dict[str, Any], words: str) -> None:
    assert details(entry("eviction", **changes)) == words


@pytest.mark.parametrize("zone", ["UTC", "UTC-14", "UTC+12"])
def test_impossible_numbers_and_times_do_not_fail(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    odd = entry("eviction", at_usec=2**63, mib=0, duration_usec=0, detail="\x1b[2J\nx", device="\x07")
    assert all(line.isprintable() for line in lines(odd, entry("load", at_usec=0)))


def test_narrow_screen_keeps_time_kind_and_consumer() -> None:
    narrow = lines(entry("eviction", mib=1, detail="x" * 200), theme=Theme(width=60))
    assert max(map(len, narrow)) <= 60
    assert narrow[1].startswith("22:13:20  evicted  mvoice")


def test_users_are_shown_by_name_if_they_have_one() -> None:
    assert user_name(0) == "root"
    assert user_name(UNKNOWN_UID) == f"uid {UNKNOWN_UID}"
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


def test_show_has_measured_and_declared_footprint() -> None:
    assert shown(last_used_usec=NOW - 3 * MINUTE, pinned=True) == [
        "● mvoice: resident on GPU 0, holds 2.8 GiB",
        "  footprint   2.8 GiB (declared)",
        "  measured    2.8 GiB at rest, 3.2 GiB at peak, 240 MiB left after its unload route; over 12 loads",
        "  warning     uses 15 % more VRAM than declared; set vram_resident_mib = 3301",
        "  loads in    18 s (longest of 3: 20 s) from a cold start; 0.7 s with its server running",
        "  unloads in  0.8 s (longest of 9: 1.2 s) by http",
        "  evicted by  http, then unit-stop",
        "  unit        mvoice.service",
        "  last used   3 min ago",
        "  note        pinned: not evicted to make room for others",
    ]


def test_show_does_not_warn_about_a_measured_footprint() -> None:
    text = "\n".join(shown(vram_auto=True))
    assert "(measured)" in text
    assert "(a guess, until the first load is measured)" in "\n".join(shown({}, vram_auto=True))
    assert "warning" not in text


def test_footprint_is_reported_wrong_from_ten_percent_on() -> None:
    declared = samples.consumer("a", vram_resident_mib=1000)
    assert footprint_warning(declared, {"peak_mib": 1100}) == ""
    assert footprint_warning(declared, {"peak_mib": 899}).startswith("uses 10 % less VRAM than declared")
    assert footprint_warning(declared, {}) == ""
