"""The cost of evicting a consumer, and the victims chosen by it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain import eviction_cost, victims
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import EvictionMethod, Policy, Route
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.view import ConsumerState, View
from tests.unit.domain.build import absent, resident, view

NOW = 1000.0


def known(
    name: str, mib: int = 5000, *, load_sec: float = 10.0, idle_sec: float = 30.0, **more: object
) -> ConsumerState:
    """A resident consumer with a learned load duration."""
    times = LearnedTimes().observe_load(load_sec, Start.PARKED).observe_unload(EvictionMethod.HTTP, 0.0)
    return replace(resident(name, mib, **more), times=times, idle_since=NOW - idle_sec)  # type: ignore[arg-type]


def cost(at: View, name: str) -> float:
    return eviction_cost.cost_of_evicting(
        at, at.consumers[name], eviction_cost.pooled_idle_times(at.consumers.values())
    ).value


def test_a_slower_load_costs_more_but_less_than_in_proportion() -> None:
    at = view(known("dear", load_sec=60.0), known("cheap", load_sec=6.0), now=NOW)

    assert 2.0 < cost(at, "dear") / cost(at, "cheap") < 10.0


def test_a_recently_used_consumer_costs_more() -> None:
    at = view(known("warm", idle_sec=5.0), known("cold", idle_sec=500.0), now=NOW)

    assert cost(at, "warm") > 10 * cost(at, "cold")


def test_a_consumer_of_a_waiting_request_costs_most_and_the_next_in_the_queue_more_than_the_last() -> None:
    at = view(known("next", idle_sec=500.0), known("last", idle_sec=500.0), known("warm", idle_sec=1.0), now=NOW)
    at = replace(at, queue_positions={"next": 0, "last": 5})

    assert cost(at, "next") > cost(at, "last") > cost(at, "warm")


def test_a_parked_consumer_costs_its_waking_and_a_stopped_one_its_cold_start() -> None:
    times = LearnedTimes().observe_load(40.0, Start.COLD).observe_load(2.0, Start.PARKED)
    sleeper = replace(resident("sleeper", 5000), times=times)
    stopped = replace(resident("stopped", 5000, evict=(EvictionMethod.UNIT_STOP,)), times=times)
    forgetful = replace(resident("forgetful", 5000, load=None, unload=Route("/unload")), times=times)

    assert eviction_cost.evict_and_reload_sec(sleeper) < 5.0
    assert eviction_cost.evict_and_reload_sec(stopped) > 40.0
    assert eviction_cost.evict_and_reload_sec(forgetful) > 40.0, "only its first request loads it again"


def test_its_own_idle_times_count_more_than_those_of_other_consumers() -> None:
    minute, hour = LearnedTimes(), LearnedTimes()
    for _ in range(60):
        minute, hour = minute.observe_idle(60.0), hour.observe_idle(3600.0)
    base = known("x", idle_sec=50.0)
    at = view(
        replace(base, spec=replace(base.spec, name="often"), times=minute),
        replace(base, spec=replace(base.spec, name="seldom"), times=hour),
        now=NOW,
    )

    assert cost(at, "often") > 2 * cost(at, "seldom")


def test_one_large_idle_consumer_is_evicted_instead_of_three_small_ones_in_use() -> None:
    small = [known(f"s{number}", 4000, idle_sec=5.0) for number in range(3)]
    large = known("large", 12000, idle_sec=400.0, used_at=9)
    at = view(*small, large, absent("new", 12000), policy=Policy.ADAPTIVE, now=NOW)

    choice = victims.choose(at, (0,), at.consumers["new"], {0: 11000}, 5)

    assert [one.consumer for one in choice.victims] == ["large"]
    assert {one.consumer for one in choice.spared} == {"s0", "s1", "s2"}


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("protected", ["leased", "pinned", "coexists"])
def test_no_policy_evicts_an_exempt_consumer(policy: Policy, protected: str) -> None:
    options: dict[str, dict[str, object]] = {"leased": {"leases": 1}, "pinned": {"pinned": True}}
    more = options.get(protected, {})
    keep = known("keep", 12000, load_sec=0.1, idle_sec=900.0, **more)
    other = known("other", 12000, load_sec=100.0, idle_sec=1.0, used_at=5)
    new = absent("new", 12000, **({"can_coexist_with": frozenset({"keep"})} if protected == "coexists" else {}))
    at = view(keep, other, new, policy=policy, now=NOW)

    choice = victims.choose(at, (0,), at.consumers["new"], {0: 10000}, 5)

    assert [one.consumer for one in choice.victims] == ["other"]


@pytest.mark.parametrize("policy", list(Policy))
def test_no_policy_exceeds_the_limit_or_evicts_in_vain(policy: Policy) -> None:
    many = [known(f"c{number}", 2000, used_at=number + 1) for number in range(10)]
    at = view(*many, absent("new", 12000), policy=policy, now=NOW)

    assert not victims.choose(at, (0,), at.consumers["new"], {0: 10001}, 5).suffices
    assert len(victims.choose(at, (0,), at.consumers["new"], {0: 10000}, 5).victims) == 5
