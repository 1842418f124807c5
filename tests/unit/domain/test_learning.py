"""Learned times: estimates with and without observations, and hostile records."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain.assumed_times import Start, default_load_sec
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.learning import MAX_SEC, Duration, LearnedTimes
from gpumand.domain.reuse_prediction import BUCKETS, PRIOR_SEC, IdleTimeHistogram, bucket_of, prior


def test_every_estimate_has_a_default_before_the_first_observation() -> None:
    nothing = LearnedTimes()

    assert nothing.load_sec(10000) == pytest.approx(8 + 10000 * 1.048576 / 2500)
    assert nothing.load_sec(8192, Start.PARKED) == pytest.approx(1.5)
    assert nothing.unload_sec(EvictionMethod.HTTP) > 0
    assert nothing.hold_sec() > 0


def test_first_load_is_taken_unchanged_and_later_loads_weigh_a_fifth() -> None:
    learned = LearnedTimes().observe_load(10.0).observe_load(20.0)

    assert learned.load_sec(5000) == pytest.approx(12.0)
    assert learned.loads[Start.COLD].max_sec == 20.0
    assert learned.load_sec(5000, Start.PARKED) == default_load_sec(5000, Start.PARKED), (
        "waking up is another kind of load"
    )


def test_unloads_are_learned_by_method() -> None:
    learned = LearnedTimes().observe_unload(EvictionMethod.HTTP, 0.5).observe_unload(EvictionMethod.UNIT_STOP, 4.0)

    assert learned.unload_sec(EvictionMethod.HTTP) == 0.5
    assert learned.unload_sec(EvictionMethod.UNIT_STOP) == 4.0


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf, MAX_SEC * 2])
def test_invalid_duration_is_ignored(seconds: float) -> None:
    assert Duration(3.0, 5.0, 2).with_observation(seconds) == Duration(3.0, 5.0, 2)


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_invalid_idle_time_is_ignored(seconds: float) -> None:
    assert IdleTimeHistogram().with_observation(seconds) == IdleTimeHistogram()


def test_without_observations_the_probability_is_one_half_after_fifteen_seconds() -> None:
    assert IdleTimeHistogram().reuse_probability(PRIOR_SEC) == pytest.approx(0.5)
    assert IdleTimeHistogram().reuse_probability(0.0) == 1.0


def test_consumer_used_every_minute_is_expected_after_a_minute_but_not_after_an_hour() -> None:
    idle = IdleTimeHistogram()
    for _ in range(50):
        idle = idle.with_observation(60.0)

    assert idle.reuse_probability(45.0) > 0.75, "the minute is nearly over"
    assert idle.reuse_probability(45.0) > idle.reuse_probability(1.0), "the lease has just ended"
    assert idle.reuse_probability(3600.0) < 0.05, "there never was an idle time of an hour"


def test_idle_times_of_other_consumers_count_while_own_observations_are_few() -> None:
    minute, hour = IdleTimeHistogram(), IdleTimeHistogram()
    for _ in range(100):
        minute, hour = minute.with_observation(60.0), hour.with_observation(3600.0)

    assert IdleTimeHistogram().reuse_probability(45.0, minute.scaled(20.0)) > 0.7
    assert hour.reuse_probability(45.0, minute.scaled(20.0)) < 0.3, "it has enough observations of its own"
    assert sum(minute.scaled(20.0).counts) == pytest.approx(20.0)
    assert IdleTimeHistogram().with_observation(5.0).scaled(20.0) == IdleTimeHistogram().with_observation(5.0), (
        "scaling never increases the weight"
    )


def test_old_observations_lose_weight() -> None:
    idle = IdleTimeHistogram()
    for _ in range(500):
        idle = idle.with_observation(5.0)
    for _ in range(500):
        idle = idle.with_observation(1000.0)

    assert idle.counts[bucket_of(5.0)] < idle.counts[bucket_of(1000.0)] / 4


@given(st.lists(st.floats(0, 1e7), max_size=60), st.floats(0, 1e7), st.lists(st.floats(0, 1e7), max_size=10))
def test_reuse_probability_stays_between_zero_and_one(seen: list[float], idle_sec: float, others: list[float]) -> None:
    idle, pool = IdleTimeHistogram(), IdleTimeHistogram()
    for seconds in seen:
        idle = idle.with_observation(seconds)
    for seconds in others:
        pool = pool.with_observation(seconds)

    assert 0.0 <= idle.reuse_probability(idle_sec, pool) <= 1.0
    assert 0.0 <= prior(idle_sec) <= 1.0


def test_buckets_are_geometric_and_cover_everything() -> None:
    assert [bucket_of(seconds) for seconds in (0.0, 1.9, 2.0, 3.9, 4.0, 32768.0, 1e300)] == [0, 0, 1, 1, 2, 15, 15]


def test_record_restores_the_learned_times() -> None:
    learned = LearnedTimes().observe_load(4.0).observe_load(0.5, Start.PARKED).observe_hold(8.0).observe_idle(30.0)
    learned = learned.observe_unload(EvictionMethod.UNIT_STOP, 2.0)

    assert LearnedTimes.from_record(json.loads(json.dumps(learned.to_record()))) == learned


def test_record_of_another_version_restores_its_known_keys() -> None:
    record = LearnedTimes().observe_load(4.0).to_record() | {"moods": [1], "unloads": {"teleport": [1, 1, 1]}}
    del record["idle"]

    assert LearnedTimes.from_record(record) == LearnedTimes().observe_load(4.0)


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
def test_malformed_record_is_rejected_with_a_one_line_message(record: object) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        LearnedTimes.from_record(record)
