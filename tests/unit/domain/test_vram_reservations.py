"""Reservations in the rules: names, the memory of several reservations of one program, and the whole device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain import budget
from gpumand.domain.consumer import reservation_spec
from gpumand.domain.decision import Requirement
from gpumand.domain.errors import EvictionFailed
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.reservation import Holder, ProcessKey, Reservation, is_reservation, public_name, public_trigger
from gpumand.domain.reserved_memory import excess_mib, filled_mib
from gpumand.domain.view import ConsumerState
from tests.unit.domain.build import TOTAL_MIB, resident, view

JOB = Holder(ProcessKey(10, 1))


def reserved(lease_id: str, mib: int, *, holder: Holder = JOB, claimed_at: float | None = 1.0) -> ConsumerState:
    """A reservation on device 0; ``mib`` 0 = the whole device."""
    spec = reservation_spec(Reservation(lease_id, mib, whole_device=not mib, holder=holder), 1)
    leases = 1 if claimed_at is not None else 0
    devices = (0,) if claimed_at is not None else ()
    return ConsumerState(spec, devices=devices, leases=leases, claimed_at=claimed_at)


def test_names_of_reservations_are_no_names_of_consumers() -> None:
    name = reserved("38a640c1f0", 100).name
    assert name == "reservation 38a640"
    assert (public_name(name), public_trigger(name), is_reservation(name)) == ("", "reservation", True)
    assert (public_name("comfyui"), public_trigger("comfyui"), is_reservation("comfyui")) == (
        "comfyui",
        "comfyui",
        False,
    )


def test_memory_of_a_program_fills_its_reservations_in_order_and_the_rest_is_excess() -> None:
    first, second = reserved("aaaaaa", 4000), reserved("bbbbbb", 3000, claimed_at=2.0)
    for held_mib, filled, excess in ((0, (0, 0), 0), (5000, (4000, 1000), 0), (9000, (4000, 3000), 2000)):
        now = view(first, second, held={first.name: held_mib})
        assert filled_mib(now.devices[0], [first, second]) == dict(zip((first.name, second.name), filled, strict=True))
        assert sum(excess_mib(now, 0).values()) == excess
        assert sum(budget.reserved_by_consumer(now, 0).values()) == 7000 - sum(filled)


def test_reservations_of_programs_that_are_not_identified_do_not_share_memory() -> None:
    first, second = reserved("aaaaaa", 4000, holder=Holder()), reserved("bbbbbb", 4000, holder=Holder())
    now = view(first, second, held={first.name: 6000})
    assert budget.reserved_by_consumer(now, 0) == {first.name: 0, second.name: 4000}
    assert excess_mib(now, 0) == {first.name: 2000}


def test_unknown_memory_of_a_program_leaves_its_reservation_whole() -> None:
    state = replace(reserved("aaaaaa", 4000), baseline_mib={0: 0})
    now = view(state, attributed=False)
    assert filled_mib(now.devices[0], [state]) == {state.name: None}
    assert budget.reserved_by_consumer(now, 0) == {state.name: 4000}


def test_reservation_that_fits_needs_no_load() -> None:
    decision = decide(
        view(resident("a", 8000), reserved("aaaaaa", 9000, claimed_at=None)), Requirement("reservation aaaaaa")
    )
    assert (decision.verdict, decision.resident, decision.load) == (Verdict.GRANT, True, False)
    assert decision.needs_fresh_sample


@pytest.mark.parametrize("pinned", [False, True])
def test_whole_device_evicts_what_may_go_and_grants_when_nothing_may(pinned: bool) -> None:
    now = view(resident("a", 8000, pinned=pinned), resident("b", 7000), reserved("aaaaaa", 0, claimed_at=None))
    decision = decide(now, Requirement("reservation aaaaaa"))
    assert decision.verdict is Verdict.GRANT
    assert {one.consumer for one in decision.evictions} == ({"b"} if pinned else {"a", "b"})
    assert decision.load == bool(decision.evictions)


def test_whole_device_waits_for_a_lease_and_for_another_reservation() -> None:
    whole = reserved("aaaaaa", 0, claimed_at=None)
    for other in (resident("a", 8000, leases=1), resident("a", 8000, leases=1, pinned=True), reserved("bbbbbb", 10)):
        assert decide(view(other, whole), Requirement(whole.name)).verdict is Verdict.WAIT


def test_whole_device_does_not_wait_for_memory_that_is_merely_reserved() -> None:
    merely = replace(resident("a", 8000), claimed_at=1.0, footprint_seen=False)
    whole = reserved("aaaaaa", 0, claimed_at=None)
    decision = decide(view(merely, whole, held={"a": 0}), Requirement(whole.name))
    assert decision.verdict is Verdict.GRANT


def test_whole_device_is_refused_when_an_eviction_freed_nothing() -> None:
    whole = reserved("aaaaaa", 0, claimed_at=None)
    decision = decide(view(resident("a", 8000), whole, evict_failed=frozenset({"a"})), Requirement(whole.name))
    assert (decision.verdict, decision.error) == (Verdict.REFUSE, EvictionFailed)


def test_whole_device_reservation_leaves_out_foreign_memory() -> None:
    whole = reserved("aaaaaa", 0)
    now = view(whole, held={whole.name: 5000}, foreign_mib=3000)
    assert budget.reserved_by_consumer(now, 0) == {whole.name: TOTAL_MIB - 8000}
    assert budget.free_mib(now, 0, "other") == 0
    assert excess_mib(now, 0) == {}


@pytest.mark.parametrize("known", [True, False])
def test_no_other_consumer_is_loaded_or_leased_during_a_whole_device_reservation(known: bool) -> None:
    whole = reserved("aaaaaa", 0)
    total_mib = TOTAL_MIB if known else None
    for other in (resident("a", 100), replace(resident("a", 100), residency=resident("a", 1).residency.UNLOADED)):
        now = view(whole, other, known=known, total_mib=total_mib)
        assert decide(now, Requirement("a")).verdict is Verdict.WAIT
