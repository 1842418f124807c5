"""Which events become notices, and how many of them are delivered."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gpumand.notify.notices import MAX_TEXT, Notice, NoticeKind, Watcher
from gpumand.notify.rate import MAX_PENDING, RateLimit

SECOND = 1_000_000
NOW = 1_700_000_000 * SECOND


def entry(kind: str, at: int = 1, **changes: Any) -> dict[str, Any]:
    return {"kind": kind, "at_usec": NOW + at, "consumer": "llm", "detail": "", "duration_usec": SECOND} | changes


def waiting(waited_sec: float, **changes: Any) -> dict[str, Any]:
    plain = {"consumer": "llm", "owner_uid": 1000, "waiting_for": "comfyui is leased"}
    return plain | {"waited_usec": int(waited_sec * SECOND)} | changes


def texts(notices: list[Notice]) -> list[str]:
    return [one.text for one in notices]


def test_events_become_sentences() -> None:
    found = Watcher(NOW).events(
        [
            entry("load-failed", 4, detail="the unit has failed"),
            entry("load", 3),
            entry("eviction-failed", 2, trigger="comfyui", detail="memory stays in use"),
            entry("eviction", 1, trigger="comfyui", mib=9000),
            entry("grant", 1),
        ]
    )
    assert texts(found) == [
        "llm was evicted for comfyui: 9000 MiB freed",
        "llm could not be evicted for comfyui: memory stays in use",
        "llm was loaded in 1.0 s",
        "llm could not be loaded: the unit has failed",
    ]


def test_each_event_is_reported_once_also_if_several_have_the_same_time() -> None:
    watcher = Watcher(NOW)
    first, second = entry("load-failed", 5, consumer="a"), entry("load-failed", 5, consumer="b")
    assert len(watcher.events([first])) == 1
    assert watcher.since_usec == NOW + 5
    assert [one.consumer for one in watcher.events([second, first])] == ["b"]
    assert watcher.events([second, first]) == []
    assert watcher.events([]) == []
    assert [one.consumer for one in watcher.events([entry("load", 6), second, first])] == ["llm"]


def test_a_long_wait_is_reported_once_for_each_request() -> None:
    watcher = Watcher(NOW)
    assert watcher.waits([waiting(10)], NOW + 10 * SECOND, 60) == []
    [notice] = watcher.waits([waiting(61)], NOW + 61 * SECOND, 60)
    assert (notice.kind, notice.text) == (
        NoticeKind.LONG_WAIT,
        "A request for llm has waited for 61 s: comfyui is leased",
    )
    assert watcher.waits([waiting(66)], NOW + 66 * SECOND, 60) == []
    assert watcher.waits([], NOW + 70 * SECOND, 60) == []
    assert len(watcher.waits([waiting(61)], NOW + 500 * SECOND, 60)) == 1, "another request of the same user"


def test_hooks_with_other_limits_hear_of_a_wait_each_at_their_time() -> None:
    watcher = Watcher(NOW)
    assert len(watcher.waits([waiting(61)], NOW, 60)) == 1
    assert watcher.waits([waiting(61)], NOW, 300) == []
    assert watcher.waits([waiting(66)], NOW + 5 * SECOND, 60) == []
    assert len(watcher.waits([waiting(301)], NOW + 240 * SECOND, 300)) == 1


def test_unreadable_memory_is_reported_when_it_begins_and_ends() -> None:
    watcher = Watcher(NOW)
    assert watcher.degraded("") == []
    assert texts(watcher.degraded("nvml-hangs: for 5 s")) == ["VRAM cannot be read: nvml-hangs: for 5 s"]
    assert watcher.degraded("nvml-hangs: for 10 s") == []
    assert texts(watcher.degraded("")) == ["VRAM can be read again"]


@pytest.mark.parametrize("value", [None, 7, ["x"], "x" * 10_000_000, "\x1b[31m\x00\n\u202e"])
def test_hostile_values_become_one_short_line(value: object) -> None:
    hostile = entry("load-failed", detail=value, consumer=value, duration_usec=value, trigger=value)
    [notice] = Watcher(NOW).events([hostile])
    waits = Watcher(NOW).waits([waiting(99, waiting_for=value, consumer=value, owner_uid=value)], NOW, 60)
    for one in (notice, *waits):
        assert len(one.text) <= MAX_TEXT
        assert one.text.isprintable()


def test_long_values_cost_little_time() -> None:
    began = time.thread_time()  # a busy machine takes longer
    Watcher(NOW).events([entry("load-failed", detail="x " * 5_000_000, consumer="x" * 10_000_000)])
    assert time.thread_time() - began < 0.2


def notices(number: int) -> list[Notice]:
    return [Notice(NoticeKind.LOAD, "llm", str(place)) for place in range(number)]


def test_notices_within_the_interval_are_delivered_together() -> None:
    limit = RateLimit(min_interval_sec=10, max_per_hour=100)
    assert limit.due(0) is None
    limit.add(notices(1))
    assert limit.due(0) is not None
    limit.add(notices(2))
    limit.add(notices(3))
    assert limit.due(9.9) is None
    delivery = limit.due(10)
    assert delivery is not None
    assert (len(delivery.notices), delivery.left_out) == (5, 0)
    assert limit.due(100) is None


def test_a_flood_is_counted_and_delivered_once() -> None:
    limit = RateLimit(min_interval_sec=10, max_per_hour=100)
    limit.add(notices(100_000))
    delivery = limit.due(0)
    assert delivery is not None
    assert (len(delivery.notices), delivery.left_out) == (MAX_PENDING, 100_000 - MAX_PENDING)


def test_an_hour_has_no_more_deliveries_than_its_limit() -> None:
    limit = RateLimit(min_interval_sec=0, max_per_hour=3)
    delivered = 0
    for second in range(7200):
        limit.add(notices(1))
        delivered += limit.due(float(second)) is not None
    assert delivered == 6
