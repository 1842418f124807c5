"""The exact optimum agrees with exhaustive search, and no policy is better."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from random import Random

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.host import SimulatedHost, simulated_consumer
from gpumand.simulation.optimum import ScheduleRules, least_wait_sec


def instance(seed: int, consumers: int, requests: int) -> tuple[SimulatedHost, list[Use]]:
    random = Random(seed)
    names = [f"c{number}" for number in range(consumers)]
    host = SimulatedHost(
        {
            name: simulated_consumer(name, random.randrange(2, 9), random.randint(1, 9), random.randint(0, 3))
            for name in names
        },
        (10,),
    )
    t, uses = 0.0, []
    for _ in range(requests):
        t += random.choice([0, 1, 3, 8, 20])
        uses.append(Use(t, random.choice(names), random.randint(1, 8)))
    return host, uses


def load_options(host: SimulatedHost, resident: frozenset[str], name: str) -> Iterator[tuple[frozenset[str], float]]:
    for count in range(len(resident) + 1):
        for evicted in combinations(sorted(resident), count):
            after = resident - set(evicted) | {name}
            if sum(host.consumers[one].spec.vram_resident_mib for one in after) <= host.total_mib[0]:
                yield (
                    after,
                    host.consumers[name].load_sec + sum(host.consumers[one].unload_sec for one in evicted),
                )


def exhaustive_search(
    host: SimulatedHost,
    left: tuple[Use, ...],
    resident: frozenset[str],
    free_at: float,
    rules: ScheduleRules,
    loads: int,
) -> float:
    """The least total wait of all schedules, found by trying each of them."""
    if not left:
        return 0.0
    best = float("inf")
    for place, use in enumerate(left if rules.any_order else left[:1]):
        if any(other.consumer == use.consumer for other in left[:place]):
            continue
        rest = left[:place] + left[place + 1 :]
        ready = max(free_at, use.t)
        if use.consumer in resident:
            best = min(
                best, ready - use.t + exhaustive_search(host, rest, resident, ready + use.hold_sec, rules, loads)
            )
        elif not rules.load_ahead:
            for after, seconds in load_options(host, resident, use.consumer):
                start = ready + seconds
                best = min(
                    best,
                    start - use.t + exhaustive_search(host, rest, after, start + use.hold_sec, rules, loads),
                )
    for name in {use.consumer for use in left} - resident if rules.load_ahead and loads else set():
        for after, seconds in load_options(host, resident, name):
            best = min(best, exhaustive_search(host, left, after, free_at + seconds, rules, loads - 1))
    return best


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_optimum_without_loads_ahead_matches_exhaustive_search(seed: int, any_order: bool) -> None:
    host, uses = instance(seed, consumers=4, requests=6)
    rules = ScheduleRules(any_order)

    assert least_wait_sec(host, uses, rules=rules) == pytest.approx(
        exhaustive_search(host, tuple(uses), frozenset(), 0.0, rules, 0)
    ), f"seed {seed}"


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_optimum_with_loads_ahead_matches_exhaustive_search(seed: int, any_order: bool) -> None:
    host, uses = instance(seed, consumers=3, requests=4)
    rules = ScheduleRules(any_order, load_ahead=True)

    assert least_wait_sec(host, uses, rules=rules) == pytest.approx(
        exhaustive_search(host, tuple(uses), frozenset(), 0.0, rules, 5)
    ), f"seed {seed}"


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("seed", range(20))
def test_no_policy_waits_less_than_the_optimum(seed: int, policy: Policy) -> None:
    host, uses = instance(seed, consumers=5, requests=14)
    outcome = Engine(
        host, SchedulerSettings(cushion_mib=0, policy=policy, concurrent_leases=1, min_turn_sec=0.0), OpenDemand(uses)
    ).run()
    waited = sum(one.wait_sec for one in outcome.served)

    assert least_wait_sec(host, uses, rules=ScheduleRules(any_order=True)) <= waited + 1e-6, f"seed {seed}"
    if policy is Policy.LRU:
        assert least_wait_sec(host, uses) <= waited + 1e-6, f"seed {seed}"


def test_more_freedom_never_waits_longer() -> None:
    for seed in range(10):
        host, uses = instance(seed, consumers=4, requests=8)
        strict, free = least_wait_sec(host, uses), least_wait_sec(host, uses, rules=ScheduleRules(any_order=True))
        ahead = least_wait_sec(host, uses, rules=ScheduleRules(any_order=True, load_ahead=True))

        assert ahead <= free + 1e-6 <= strict + 2e-6, f"seed {seed}"


def test_consumer_that_never_fits_raises_an_error() -> None:
    host = SimulatedHost({"big": simulated_consumer("big", 100, 1, 1)}, (10,))

    with pytest.raises(ValueError, match="does not fit"):
        least_wait_sec(host, [Use(0, "big", 1)])
