"""Turns in the simulation: pairs of clients whose consumers exclude each other, and a client that comes once."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.host import SimulatedHost, simulated_consumer
from gpumand.simulation.outcome import SimulationResult

LOAD_SEC, UNLOAD_SEC = 3.0, 0.5
HOST = SimulatedHost({name: simulated_consumer(name, 8, LOAD_SEC, UNLOAD_SEC) for name in "ab"}, (10,))


class TwoPairs:
    """Two clients of a and two of b; each sends ten requests, the next one a moment after the last one's work."""

    def __init__(self, seed: int, hold_sec: float = 1.0, think_sec: float = 2.0) -> None:
        self._random, self._hold_sec, self._think_sec = Random(seed), hold_sec, think_sec
        self._left = dict.fromkeys(("a1", "b1", "a2", "b2"), 10)

    def initial_uses(self) -> Sequence[Use]:
        return [self._use(0.01 * place, client) for place, client in enumerate(self._left)]

    def next_uses(self, use: Use, ended_at: float) -> Sequence[Use]:
        pause_sec = self._think_sec * self._random.expovariate(1.0)
        return [self._use(ended_at + pause_sec, use.client)] if self._left[use.client] else []

    def _use(self, t: float, client: str) -> Use:
        self._left[client] -= 1
        return Use(t, client[0], self._hold_sec * self._random.lognormvariate(-0.125, 0.5), client)


def ping_pong(seed: int, **settings: object) -> SimulationResult:
    chosen = SchedulerSettings(cushion_mib=0, **settings)  # type: ignore[arg-type]
    outcome = Engine(HOST, chosen, TwoPairs(seed)).run()
    assert len(outcome.served) == 40
    return outcome


def longest_wait_sec(outcome: SimulationResult) -> float:
    return max(one.wait_sec for one in outcome.served if one.wait_sec is not None)


def mean_wait_sec(outcome: SimulationResult) -> float:
    return fmean(one.wait_sec for one in outcome.served if one.wait_sec is not None)


SEEDS = range(20)


@pytest.mark.parametrize("policy", list(Policy))
def test_two_pairs_of_clients_share_a_load_between_at_least_four_requests(policy: Policy) -> None:
    turns = [ping_pong(seed, policy=policy) for seed in SEEDS]
    one_at_a_time = [
        ping_pong(seed, policy=Policy.LRU, concurrent_leases=1, min_turn_sec=0.0, overtake_budget_sec=0.0)
        for seed in SEEDS
    ]

    assert fmean(one.loads for one in one_at_a_time) > 20
    assert fmean(one.loads for one in turns) <= 10
    assert fmean(map(longest_wait_sec, turns)) <= fmean(map(longest_wait_sec, one_at_a_time))
    assert fmean(map(mean_wait_sec, turns)) <= 0.5 * fmean(map(mean_wait_sec, one_at_a_time))


@pytest.mark.parametrize("policy", list(Policy))
def test_without_turns_each_pair_evicts_the_other_again_and_again(policy: Policy) -> None:
    loads = [ping_pong(seed, policy=policy, min_turn_sec=0.0).loads for seed in SEEDS]

    assert fmean(loads) > 15


@pytest.mark.parametrize("policy", list(Policy))
def test_no_request_is_overtaken_by_more_work_than_its_budget(policy: Policy) -> None:
    for seed in SEEDS:
        for budget_sec in (2.0, 5.0):
            outcome = ping_pong(seed, policy=policy, min_turn_sec=3600.0, overtake_budget_sec=budget_sec)
            longest_use_sec = max(one.use.hold_sec for one in outcome.served)
            # Two leases run at a time, and each may turn out longer than was expected when it was granted.
            assert max(one.overtaken_sec for one in outcome.served) <= budget_sec + 2 * longest_use_sec


def test_consumer_that_is_used_once_loses_its_turn_after_a_short_pause() -> None:
    settings = SchedulerSettings(cushion_mib=0)
    outcome = Engine(HOST, settings, OpenDemand([Use(0, "a", 1), Use(0.5, "b", 1)])).run()

    second = outcome.served[1].wait_sec
    assert second is not None
    assert second == pytest.approx(LOAD_SEC + 1 + 2.0 + UNLOAD_SEC + LOAD_SEC - 0.5)


def test_learned_long_idle_times_end_a_turn_with_its_lease() -> None:
    uses = [Use(100.0 * number, "a", 1) for number in range(5)] + [Use(390, "b", 1), Use(400.5, "b", 1)]
    outcome = Engine(HOST, SchedulerSettings(cushion_mib=0), OpenDemand(sorted(uses, key=lambda one: one.t))).run()

    (last,) = [one for one in outcome.served if one.use.t == 400.5]
    # Request a of t = 400 evicts b and loads: 0.5 + 3 s, its work ends at 404.5, and then b is loaded at once.
    assert last.wait_sec == pytest.approx(404.5 - 400.5 + UNLOAD_SEC + LOAD_SEC)
