"""Which victims are parked, which are stopped, and which parked consumers are stopped for their host RAM."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain import budget, eviction_cost, host_ram, parking
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import (
    UNKNOWN_MIB,
    ConsumerSpec,
    EvictionMethod,
    Health,
    Policy,
    SchedulerSettings,
    UnitActivity,
    UnitState,
)
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import InvalidArgs
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency import infer_residency
from gpumand.domain.residency_states import Residency
from gpumand.domain.reuse_prediction import IdleTimeHistogram
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident, spec, view

HTTP, UNIT_STOP = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP
RESERVE_MIB = SchedulerSettings().host_ram_reserve_mib


def awake(name: str, mib: int, *, used_at: int = 0, **more: Any) -> ConsumerState:
    """A resident consumer that can be parked."""
    return resident(name, mib, used_at=used_at, **({"parks": True, "residual_mib": 1000} | more))


def parked(name: str, mib: int, *, used_at: int = 0, **more: Any) -> ConsumerState:
    return replace(awake(name, mib, used_at=used_at, **more), residency=Residency.PARKED, footprint_seen=False)


def host(*states: ConsumerState, ram_mib: int | None, **more: Any) -> View:
    """A device on which parked consumers hold their residual, and ``ram_mib`` of host RAM beyond the reserve."""
    held = {one.name: one.spec.residual_mib for one in states if one.residency is Residency.PARKED}
    available_mib = None if ram_mib is None else ram_mib + RESERVE_MIB
    made = view(*states, held=held, concurrent_leases=0, **more)
    return replace(made, host_available_mib=available_mib)


def ask(at: View, name: str = "new") -> Decision:
    return decide(at, Requirement(name))


def plan(decision: Decision) -> list[tuple[str, str, bool]]:
    return [(one.consumer, one.method, one.parks) for one in decision.evictions]


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


# -- parkings in progress --


ONLY_ROUTE: dict[str, Any] = {"unit": "", "evict": (HTTP,)}


def with_second_device(base: View, residencies: dict[str, Residency], **more: Any) -> View:
    """The view with a second device, which these consumers are on."""
    names = {process.consumer for process in base.devices[0].processes} - residencies.keys()
    processes = tuple(one for one in base.devices[0].processes if one.consumer in names)
    used_mib = sum(one.used_mib or 0 for one in processes)
    first = replace(base.devices[0], processes=processes, used_mib=used_mib, free_mib=24564 - used_mib)
    second = replace(first, index=1, uuid="GPU-1", processes=(), used_mib=0, free_mib=24564)
    there = {
        name: replace(base.consumers[name], residency=residency, devices=(1,))
        for name, residency in residencies.items()
    }
    return replace(base, devices={0: first, 1: second}, consumers={**base.consumers, **there}, **more)


def test_a_request_waits_for_host_ram_that_a_parking_in_progress_counts_twice() -> None:
    """A consumer that is being parked counts whole, although a part of it shows already."""
    stuck, going = awake("a", 12000, **ONLY_ROUTE), awake("b", 9000)
    base = host(stuck, going, absent("new", 20000, devices=("0",)), ram_mib=12000)
    job = Job((1,), "x", evicting=("b",), parking=("b",))

    decision = ask(with_second_device(base, {"b": Residency.UNLOADING}, jobs={1: job}))

    assert decision.verdict is Verdict.WAIT
    assert decision.message == "b is using host RAM; host RAM has no room to park a"
    assert plan(ask(with_second_device(base, {"b": Residency.PARKED}))) == [("a", "http", True)]


@pytest.mark.parametrize(
    ("mib", "residency", "expected"),
    [
        (12000, Residency.LOADING, Verdict.WAIT),
        (11999, Residency.LOADING, Verdict.REFUSE),
        (12000, Residency.RESIDENT, Verdict.REFUSE),
    ],
)
def test_a_request_waits_for_host_ram_that_a_waking_consumer_frees(
    mib: int, residency: Residency, expected: Verdict
) -> None:
    waking = awake("w", mib)
    base = host(awake("a", 12000, **ONLY_ROUTE), waking, absent("new", 20000, devices=("0",)), ram_mib=0)

    assert ask(with_second_device(base, {"w": residency})).verdict is expected


def test_a_consumer_that_cannot_be_parked_does_not_count_as_evictable_later() -> None:
    stuck, leased = awake("a", 12000, **ONLY_ROUTE), resident("b", 2000, leases=1)

    assert ask(host(stuck, leased, absent("new", 20000), ram_mib=0)).verdict is Verdict.REFUSE
    assert ask(host(leased, absent("new", 22400), ram_mib=0)).verdict is Verdict.WAIT


def test_nothing_is_stopped_for_host_ram_on_a_device_with_an_external_load() -> None:
    states = awake("a", 12000, used_at=5), parked("old", 12000, used_at=1), awake("starts", 5000)
    base = host(*states, absent("new", 20000, devices=("0",)), ram_mib=0)

    quiet = with_second_device(base, {"old": Residency.PARKED, "starts": Residency.RESIDENT})
    assert plan(ask(quiet)) == [("old", "unit-stop", False), ("a", "http", True)]
    loading = with_second_device(base, {"old": Residency.PARKED, "starts": Residency.LOADING})
    assert plan(ask(loading)) == [("a", "unit-stop", False)]


@pytest.mark.parametrize("residency", [Residency.PARKED, Residency.LOADING])
def test_host_ram_of_unknown_size_does_not_count(residency: Residency) -> None:
    unknown = awake("w", UNKNOWN_MIB, vram_auto=True)
    base = host(awake("a", 12000, used_at=5, **ONLY_ROUTE), unknown, absent("new", 20000, devices=("0",)), ram_mib=0)

    assert ask(with_second_device(base, {"w": residency})).verdict is Verdict.REFUSE


def test_a_victim_of_another_job_is_not_stopped_for_host_ram() -> None:
    """The devices of a parked consumer without readings are unknown."""
    states = awake("a", 12000, used_at=5), parked("old", 12000, used_at=1), absent("new", 20000, devices=("0",))
    base = with_second_device(host(*states, ram_mib=0), {})
    base = replace(base, consumers={**base.consumers, "old": replace(base.consumers["old"], devices=())})

    going = replace(base, jobs={1: Job((1,), "x", evicting=("old",))})

    assert plan(ask(base)) == [("old", "unit-stop", False), ("a", "http", True)]
    assert plan(ask(going)) == [("a", "unit-stop", False)]


def test_host_ram_reserved_for_parkings_in_progress_is_not_free() -> None:
    going = replace(awake("b", 5000), residency=Residency.UNLOADING)
    job = Job((1,), "x", evicting=("b", "c", "a"), parking=("b", "c"))
    at = host(awake("a", 8000), going, awake("c", 3000), ram_mib=20000, jobs={1: job})

    assert host_ram.room_mib(at) == 12000
    assert host_ram.room_mib(at, excluding="b") == 17000


# -- residual VRAM --


def test_a_parked_consumer_is_stopped_for_its_residual_vram() -> None:
    decision = ask(host(parked("p", 12000), absent("new", 24000), ram_mib=0))

    assert plan(decision) == [("p", "unit-stop", False)]
    assert decision.evictions[0].expected_mib == 1000


def test_a_parked_consumer_is_not_stopped_where_another_victim_suffices() -> None:
    decision = ask(
        host(parked("p", 12000, used_at=1), resident("a", 12000, used_at=2), absent("new", 20000), ram_mib=0)
    )

    assert plan(decision) == [("a", "http", False)]


def test_a_parked_consumer_without_unit_cannot_free_more() -> None:
    stuck = parked("p", 12000, unit="", evict=(HTTP,))
    decision = ask(host(stuck, absent("new", 24000), ram_mib=0))

    assert decision.verdict is Verdict.REFUSE
    assert [(one.consumer, one.why) for one in decision.spared] == [("p", "already parked, and has no unit to stop")]
    assert "1000 MiB by p (parked)" in decision.message


def test_without_readings_a_parked_consumer_counts_with_its_residual() -> None:
    blind = host(parked("p", 12000), absent("new", 24000), ram_mib=0, known=False)

    assert budget.free_mib(blind, 0, "new") == 24564 - 1000
    assert budget.freeable_mib(blind.devices[0], blind.consumers["p"], None) == 1000


def test_a_parked_consumer_is_woken_on_its_device() -> None:
    base = host(parked("p", 12000), ram_mib=0)
    empty = replace(base.devices[0], index=1, uuid="GPU-1", used_mib=0, free_mib=24564, processes=())

    decision = ask(replace(base, devices={0: base.devices[0], 1: empty}), "p")

    assert (decision.place, decision.load, decision.need_mib) == ((0,), True, 12000 + 256 - 1000)


def test_a_parked_consumer_is_not_woken_on_another_device() -> None:
    at = with_second_device(host(parked("p", 12000), ram_mib=0), {})

    decision = decide(at, Requirement("p", devices=(1,)))

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InvalidArgs)
    assert decision.message == "p is parked on device 0, not on device 1. Evict it first, or request device 0."


def test_stopping_a_parked_consumer_costs_the_longer_cold_start() -> None:
    times = LearnedTimes().observe_load(40.0).observe_load(2.0, Start.PARKED).observe_unload(UNIT_STOP, 3.0)
    state = replace(parked("p", 12000), times=times)

    assert eviction_cost.evict_and_reload_sec(state) == pytest.approx(3.0 + 40.0 - 2.0)
    assert eviction_cost.parked_cost(host(state, ram_mib=0), state, IdleTimeHistogram()).reload_sec == pytest.approx(
        41.0
    )


# -- evictions without a request --


def test_manual_and_idle_evictions_follow_host_ram_too() -> None:
    a, only_route = awake("a", 12000), awake("a", 12000, unit="", evict=(HTTP,))

    assert host_ram.eviction_method_now(host(a, ram_mib=12000), a) is HTTP
    assert host_ram.eviction_method_now(host(a, ram_mib=11999), a) is UNIT_STOP
    assert host_ram.eviction_method_now(host(only_route, ram_mib=11999), only_route) is None
    assert host_ram.eviction_method_now(host(only_route, ram_mib=None), only_route) is HTTP
    assert host_ram.eviction_method_now(host(parked("a", 9), ram_mib=0), parked("a", 9)) is UNIT_STOP
    plain = resident("b", 5)
    assert host_ram.eviction_method_now(host(plain, ram_mib=0), plain) is HTTP
