"""What is learned of a consumer, what is assumed before, and what a hostile record does."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.learning import MAX_SEC, Duration, Learned, Start, first_load_sec
from gpumand.domain.reuse_prediction import BUCKETS, PRIOR_SEC, IdleTimes, bucket_of, prior


def test_nothing_learned_yet_has_an_answer_for_everything() -> None:
    nothing = Learned()

    assert nothing.load_sec(10000) == pytest.approx(8 + 10000 * 1.048576 / 2500)
    assert nothing.load_sec(8192, Start.PARKED) == pytest.approx(1.5)
    assert nothing.unload_sec(EvictionMethod.HTTP) > 0
    assert nothing.hold_sec() > 0


def test_the_first_load_counts_whole_and_later_ones_a_fifth() -> None:
    learned = Learned().observe_load(10.0).observe_load(20.0)

    assert learned.load_sec(5000) == pytest.approx(12.0)
    assert learned.loads[Start.COLD].max_sec == 20.0
    assert learned.load_sec(5000, Start.PARKED) == first_load_sec(5000, Start.PARKED), "waking up is another matter"


def test_unloads_are_learned_by_method() -> None:
    learned = Learned().observe_unload(EvictionMethod.HTTP, 0.5).observe_unload(EvictionMethod.UNIT_STOP, 4.0)

    assert learned.unload_sec(EvictionMethod.HTTP) == 0.5
    assert learned.unload_sec(EvictionMethod.UNIT_STOP) == 4.0


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, MAX_SEC * 2])
def test_what_is_no_duration_changes_nothing(seconds: float) -> None:
    assert Duration(3.0, 5.0, 2).observed(seconds) == Duration(3.0, 5.0, 2)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_what_is_no_idle_time_changes_nothing(seconds: float) -> None:
    assert IdleTimes().observed(seconds) == IdleTimes()


def test_without_history_the_chance_halves_at_fifteen_seconds() -> None:
    assert IdleTimes().chance(PRIOR_SEC) == pytest.approx(0.5)
    assert IdleTimes().chance(0.0) == 1.0


def test_who_always_comes_back_after_a_minute_is_wanted_then_and_not_after_an_hour() -> None:
    idle = IdleTimes()
    for _ in range(50):
        idle = idle.observed(60.0)

    assert idle.chance(45.0) > 0.75, "the minute is nearly over"
    assert idle.chance(45.0) > idle.chance(1.0), "just left: it will not be back for a while"
    assert idle.chance(3600.0) < 0.05, "nobody ever came back after an hour"


def test_what_others_did_counts_while_there_is_little_of_its_own() -> None:
    minute, hour = IdleTimes(), IdleTimes()
    for _ in range(100):
        minute, hour = minute.observed(60.0), hour.observed(3600.0)

    assert IdleTimes().chance(45.0, minute.scaled(20.0)) > 0.7
    assert hour.chance(45.0, minute.scaled(20.0)) < 0.3, "it has enough of its own"
    assert sum(minute.scaled(20.0).counts) == pytest.approx(20.0)
    assert IdleTimes().observed(5.0).scaled(20.0) == IdleTimes().observed(5.0), "one is not made twenty"


def test_old_habits_fade() -> None:
    idle = IdleTimes()
    for _ in range(500):
        idle = idle.observed(5.0)
    for _ in range(500):
        idle = idle.observed(1000.0)

    assert idle.counts[bucket_of(5.0)] < idle.counts[bucket_of(1000.0)] / 4


@given(st.lists(st.floats(0, 1e7), max_size=60), st.floats(0, 1e7), st.lists(st.floats(0, 1e7), max_size=10))
def test_a_chance_is_one_whatever_was_seen(seen: list[float], idle_sec: float, others: list[float]) -> None:
    idle, pool = IdleTimes(), IdleTimes()
    for seconds in seen:
        idle = idle.observed(seconds)
    for seconds in others:
        pool = pool.observed(seconds)

    assert 0.0 <= idle.chance(idle_sec, pool) <= 1.0
    assert 0.0 <= prior(idle_sec) <= 1.0


def test_buckets_are_geometric_and_cover_everything() -> None:
    assert [bucket_of(seconds) for seconds in (0.0, 1.9, 2.0, 3.9, 4.0, 32768.0, 1e300)] == [0, 0, 1, 1, 2, 15, 15]


def test_a_record_brings_back_what_was_learned() -> None:
    learned = Learned().observe_load(4.0).observe_load(0.5, Start.PARKED).observe_hold(8.0).observe_idle(30.0)
    learned = learned.observe_unload(EvictionMethod.UNIT_STOP, 2.0)

    assert Learned.from_record(json.loads(json.dumps(learned.to_record()))) == learned


def test_a_record_of_another_version_gives_what_it_has() -> None:
    record = Learned().observe_load(4.0).to_record() | {"moods": [1], "unloads": {"teleport": [1, 1, 1]}}
    del record["idle"]

    assert Learned.from_record(record) == Learned().observe_load(4.0)


@pytest.mark.parametrize(
    "record",
    [
        None,
        [],
        {"loads": []},
        {"loads": {"cold": [1.0, 2.0]}},
        {"loads": {"cold": [1.0, 2.0, 1.5]}},
        {"loads": {"cold": [3.0, 2.0, 1]}},
        {"loads": {"cold": [-1.0, 2.0, 1]}},
        {"hold": [math.nan, 2.0, 1]},
        {"hold": ["1", 2.0, 1]},
        {"hold": [True, 2.0, 1]},
        {"hold": [1e99, 1e99, 1]},
        {"idle": [0.0]},
        {"idle": [math.inf] * BUCKETS},
        {"idle": "0" * BUCKETS},
        {"idle": [10**400] * BUCKETS},
    ],
)
def test_a_hostile_record_is_refused_in_one_line(record: object) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        Learned.from_record(record)
