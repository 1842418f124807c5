"""Plans while consumers are being parked, and the residual VRAM of parked ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain import budget, eviction_cost, host_ram
from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import (
    UNKNOWN_MIB,
)
from gpumand.domain.decision import Requirement
from gpumand.domain.errors import InvalidArgs
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.reuse_prediction import IdleTimeHistogram
from gpumand.domain.view import Job, View
from tests.unit.domain.build import absent, resident
from tests.unit.domain.parking_setup import HTTP, UNIT_STOP, ask, awake, host, parked, plan

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
