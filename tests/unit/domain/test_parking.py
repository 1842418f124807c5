"""Which victims are parked, which are stopped, and which parked consumers are stopped for their host RAM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain import eviction_cost, parking
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import (
    ConsumerSpec,
    Health,
    Policy,
    UnitActivity,
    UnitState,
)
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.request import Verdict
from gpumand.domain.residency import infer_residency
from gpumand.domain.residency_states import Residency
from gpumand.domain.reuse_prediction import IdleTimeHistogram
from gpumand.domain.view import ConsumerState
from tests.unit.domain.build import absent, resident, spec
from tests.unit.domain.parking_setup import HTTP, ask, awake, host, parked, plan

# -- residency --


PARKING_SPEC = spec("a", 8000, parks=True, residual_mib=1000)
UP, DOWN = UnitState("a.service", UnitActivity.ACTIVE), UnitState("a.service", UnitActivity.INACTIVE)
AWAKE_WITHOUT_MODEL, SILENT = Health(reachable=True, loaded=False), Health(reachable=False, error="no answer in time")


@pytest.mark.parametrize(
    ("unit", "health", "held_mib", "expected"),
    [
        (UP, AWAKE_WITHOUT_MODEL, 1000, Residency.PARKED),
        (None, AWAKE_WITHOUT_MODEL, None, Residency.PARKED),
        (UP, Health(reachable=True, loaded=True), 8000, Residency.RESIDENT),
        (UP, None, 900, Residency.PARKED),
        (UP, None, 8000, Residency.RESIDENT),
        (UP, SILENT, 900, Residency.UNLOADED),
        (DOWN, None, 0, Residency.UNLOADED),
        (DOWN, AWAKE_WITHOUT_MODEL, 0, Residency.UNLOADED),
        (None, Health(reachable=False, refused=True), None, Residency.UNLOADED),
    ],
)
def test_a_running_server_without_its_model_is_parked(
    unit: UnitState | None, health: Health | None, held_mib: int | None, expected: Residency
) -> None:
    assert infer_residency(PARKING_SPEC, unit, health, held_mib) is expected


def test_a_consumer_that_does_not_park_is_unloaded() -> None:
    plain = ConsumerSpec("a", 8000, unit="a.service", unload=PARKING_SPEC.unload, load=PARKING_SPEC.load)

    assert infer_residency(plain, UP, AWAKE_WITHOUT_MODEL, 1000) is Residency.UNLOADED


# -- plans --


def test_a_victim_is_parked_where_host_ram_has_room() -> None:
    assert plan(ask(host(awake("a", 12000), absent("new", 20000), ram_mib=12000))) == [("a", "http", True)]


def test_a_victim_is_stopped_where_host_ram_has_no_room() -> None:
    assert plan(ask(host(awake("a", 12000), absent("new", 20000), ram_mib=11999))) == [("a", "unit-stop", False)]


def test_parked_host_mib_may_be_declared() -> None:
    state = awake("a", 12000, parked_host_mib=500)

    assert plan(ask(host(state, absent("new", 20000), ram_mib=500))) == [("a", "http", True)]


def test_two_victims_need_host_ram_together() -> None:
    states = awake("a", 9000, used_at=1), awake("b", 9000, used_at=2), absent("new", 20000)

    assert plan(ask(host(*states, ram_mib=18000))) == [("a", "http", True), ("b", "http", True)]
    assert plan(ask(host(*states, ram_mib=17999))) == [("a", "http", True), ("b", "unit-stop", False)]


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("parks", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_a_victim_is_stopped_where_its_residual_is_too_much(policy: Policy, parks: bool, known: bool) -> None:
    state = awake("a", 14000, parks=parks)
    at = host(state, absent("new", 24000), ram_mib=20000, policy=policy, known=known)

    decision = ask(at)

    assert plan(decision) == [("a", "unit-stop", False)]
    assert decision.evictions[0].expected_mib == (14000 if known else None)


def test_as_few_victims_as_necessary_are_stopped_and_those_first() -> None:
    states = awake("a", 9000, used_at=1), awake("b", 9000, used_at=2, residual_mib=400), absent("new", 23900)

    decision = ask(host(*states, ram_mib=20000))

    assert plan(decision) == [("a", "unit-stop", False), ("b", "http", True)]
    assert [one.expected_mib for one in decision.evictions] == [9000, 8600]


def test_a_victim_on_two_devices_is_stopped_where_its_residual_is_too_much() -> None:
    base = host(awake("a", 14000, device_count=2), absent("new", 24000, device_count=2), ram_mib=50000)
    consumers = {name: replace(one, devices=(0, 1) if name == "a" else ()) for name, one in base.consumers.items()}
    other = replace(base.devices[0], index=1, uuid="GPU-1")

    decision = ask(replace(base, consumers=consumers, devices={0: base.devices[0], 1: other}))

    assert plan(decision) == [("a", "unit-stop", False)]
    assert decision.evictions[0].expected_mib == 28000


def test_a_request_waits_for_a_leased_consumer_whose_stop_would_free_enough() -> None:
    def of(**more: Any) -> Verdict:
        leased = awake("a", 700, leases=1, residual_mib=650, **more)
        return ask(host(leased, absent("new", 23700), ram_mib=9000)).verdict

    assert of() is Verdict.WAIT
    assert of(unit="", evict=(HTTP,)) is Verdict.REFUSE


def test_a_victim_is_stopped_where_host_ram_is_unknown() -> None:
    assert plan(ask(host(awake("a", 12000), absent("new", 20000), ram_mib=None))) == [("a", "unit-stop", False)]
    only_route = awake("a", 12000, unit="", evict=(HTTP,))
    assert plan(ask(host(only_route, absent("new", 20000), ram_mib=None))) == [("a", "http", True)]


def test_a_consumer_without_unit_is_not_evicted_where_host_ram_has_no_room() -> None:
    only_route = awake("a", 12000, unit="", evict=(HTTP,))

    decision = ask(host(only_route, resident("b", 9000, used_at=9), absent("new", 11000), ram_mib=0))
    assert plan(decision) == [("b", "http", False)]
    refused = ask(host(only_route, absent("new", 20000), ram_mib=0))

    assert refused.verdict is Verdict.REFUSE
    assert [(one.consumer, one.why) for one in refused.spared] == [("a", parking.NO_HOST_RAM)]


def test_a_parked_consumer_used_longer_ago_is_stopped_for_its_host_ram() -> None:
    states = awake("a", 12000, used_at=5), absent("new", 20000)

    older = parked("old", 12000, used_at=1)
    decision = ask(host(*states, older, ram_mib=0))
    assert plan(decision) == [("old", "unit-stop", False), ("a", "http", True)]
    assert decision.evictions[0].why == "parked, and its 12000 MiB of host RAM are needed to park a"
    newer = parked("old", 12000, used_at=9)
    assert plan(ask(host(*states, newer, ram_mib=0))) == [("a", "unit-stop", False)]


def test_nothing_is_stopped_for_host_ram_where_that_would_not_be_enough() -> None:
    states = awake("a", 12000, used_at=5), absent("new", 20000), parked("old", 4000, used_at=1)

    assert plan(ask(host(*states, ram_mib=0))) == [("a", "unit-stop", False)]


@pytest.mark.parametrize("why", ["pinned", "leased", "coexists", "no unit"])
def test_an_exempt_consumer_is_not_stopped_for_host_ram(why: str) -> None:
    old = parked("old", 12000, used_at=1, **({"unit": "", "evict": (HTTP,)} if why == "no unit" else {}))
    old = replace(old, pinned=why == "pinned", leases=int(why == "leased"), claimed_at=1.0 if why == "leased" else None)
    new = absent("new", 9000, can_coexist_with=frozenset({"old"} if why == "coexists" else ()))

    assert plan(ask(host(awake("a", 20000, used_at=5), new, old, ram_mib=0))) == [("a", "unit-stop", False)]


def test_stops_for_host_ram_count_as_evictions() -> None:
    states = awake("a", 12000, used_at=5), absent("new", 20000), parked("old", 12000, used_at=1)

    assert plan(ask(host(*states, ram_mib=0, max_evictions=1))) == [("a", "unit-stop", False)]


def test_the_target_is_not_stopped_for_host_ram() -> None:
    decision = ask(host(awake("a", 20000, used_at=5), parked("new", 20000, used_at=1), ram_mib=0))

    assert plan(decision) == [("a", "unit-stop", False)]


def test_adaptive_stops_the_parked_consumer_of_lowest_cost() -> None:
    def learned(state: ConsumerState, cold_sec: float) -> ConsumerState:
        times = LearnedTimes().observe_load(cold_sec).observe_load(1.0, Start.PARKED)
        return replace(state, times=times)

    a, new = learned(awake("a", 12000), 60.0), absent("new", 20000)
    cheap, dear = learned(parked("p", 12000), 10.0), learned(parked("p", 12000), 600.0)

    assert plan(ask(host(a, new, cheap, ram_mib=0, policy=Policy.ADAPTIVE)))[0][0] == "p"
    assert plan(ask(host(a, new, dear, ram_mib=0, policy=Policy.ADAPTIVE))) == [("a", "unit-stop", False)]


def test_without_room_in_host_ram_a_parking_consumer_costs_a_cold_start() -> None:
    times = LearnedTimes().observe_load(40.0).observe_load(2.0, Start.PARKED)
    state = replace(awake("a", 12000), times=times)

    costs = [
        eviction_cost.cost_of_evicting(host(state, ram_mib=mib), state, IdleTimeHistogram()).reload_sec
        for mib in (12000, 11999)
    ]

    assert costs == pytest.approx([1.0 + 2.0, 1.0 + 40.0])
