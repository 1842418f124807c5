"""The rules of admission, one scenario each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import (
    Busy,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    InsufficientVram,
    NoSuchConsumer,
)
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.strict_backfill import may_backfill
from gpumand.domain.view import Job, View
from tests.unit.domain.build import absent, resident, view

IMAGE, VOICE, CUSHION = 13312, 2867, 256


def ask(view: View, consumer: str, **more: object) -> Decision:
    return decide(view, Requirement(consumer, **more))  # type: ignore[arg-type]


def evicted(decision: Decision) -> list[str]:
    return [victim.consumer for victim in decision.evictions]


def spared(decision: Decision) -> dict[str, str]:
    return {one.consumer: one.why for one in decision.spared}


# -- the three cases of the reference ----------------------------------------------------------------------------------


def test_a_resident_target_needs_no_eviction_even_on_a_full_device() -> None:
    decision = ask(view(resident("image", IMAGE), resident("big", 11000), foreign_mib=200), "image")

    assert (decision.verdict, decision.resident, decision.evictions) == (Verdict.GRANT, True, ())
    assert not decision.needs_fresh_sample, "a resident consumer needs no VRAM reading"


def test_the_image_service_is_evicted_to_fit_the_voice_service() -> None:
    decision = ask(view(resident("image", IMAGE), absent("voice", VOICE), foreign_mib=8800), "voice")

    assert (decision.verdict, decision.load, evicted(decision)) == (Verdict.GRANT, True, ["image"])
    assert decision.evictions[0].expected_mib == IMAGE
    assert decision.need_mib == VOICE + CUSHION


def test_a_coexisting_consumer_is_not_evicted() -> None:
    oldest = resident("llm", 8000, used_at=1)
    newer = resident("image", IMAGE, used_at=2)
    decision = ask(
        view(oldest, newer, absent("voice", VOICE, can_coexist_with=frozenset({"llm"})), foreign_mib=900), "voice"
    )

    assert evicted(decision) == ["image"]
    assert spared(decision)["llm"] == "listed in can_coexist_with of voice"


# -- fit ---------------------------------------------------------------------------------------------------------------


def test_a_consumer_that_fits_is_loaded_without_evictions() -> None:
    decision = ask(view(resident("image", IMAGE), absent("voice", VOICE)), "voice")

    assert (decision.verdict, decision.load, decision.evictions) == (Verdict.GRANT, True, ())
    assert decision.needs_fresh_sample


@pytest.mark.parametrize(("free_mib", "evictions"), [(VOICE + CUSHION, 0), (VOICE + CUSHION - 1, 1)])
def test_the_cushion_decides_to_the_mib(free_mib: int, evictions: int) -> None:
    state = view(resident("image", IMAGE), absent("voice", VOICE), total_mib=IMAGE + free_mib)

    assert len(ask(state, "voice").evictions) == evictions


def test_memory_that_the_target_holds_already_is_not_needed_again() -> None:
    half_there = view(absent("voice", VOICE), held={"voice": 2000}, total_mib=2000 + 867 + CUSHION)

    assert ask(half_there, "voice").verdict is Verdict.GRANT
    assert ask(half_there, "voice").need_mib == 867 + CUSHION


def test_a_refusal_of_a_too_large_consumer_gives_both_sizes() -> None:
    decision = ask(view(absent("huge", 50000)), "huge")

    assert decision.error is InsufficientVram
    assert "48.8 GiB" in decision.message
    assert "24.0 GiB" in decision.message


@pytest.mark.parametrize("mib", [50000, 24564 - CUSHION + 1])
def test_a_consumer_that_can_never_fit_is_refused_at_once(mib: int) -> None:
    decision = ask(view(resident("a", 3000, leases=1), absent("huge", mib), concurrent_leases=1), "huge")

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InsufficientVram)


def test_a_refusal_because_of_the_cushion_names_the_cushion() -> None:
    decision = ask(view(resident("a", 3000), absent("snug", 24564 - CUSHION + 100)), "snug")

    assert (decision.error, evicted(decision)) == (InsufficientVram, [])
    assert "including a cushion of 256 MiB, but device 0 has 24.0 GiB" in decision.message


def test_a_reserved_footprint_is_not_free_although_the_driver_shows_it_free() -> None:
    loading = replace(absent("image", IMAGE), residency=Residency.RESIDENT, devices=(0,), leases=1, claimed_at=1.0)
    decision = ask(view(loading, absent("other", 12000), held={"image": 1000}, concurrent_leases=0), "other")

    assert decision.verdict is Verdict.WAIT
    assert "reserved for image" in decision.message


def test_a_reservation_shrinks_as_the_consumer_grows() -> None:
    lazy = replace(absent("image", 10000), residency=Residency.RESIDENT, devices=(0,), leases=1, claimed_at=1.0)
    asked = absent("other", 13000)
    for held_mib in (0, 4000, 10000):
        state = view(lazy, asked, held={"image": held_mib} if held_mib else {"image": 1}, concurrent_leases=0)
        decision = ask(state, "other")
        assert decision.free_mib == pytest.approx(24564 - 10000, abs=1), f"image holds {held_mib} MiB"


def test_growth_of_unnamed_memory_shrinks_one_reservation_only() -> None:
    first = replace(
        absent("a", 4000), residency=Residency.RESIDENT, devices=(0,), leases=1, claimed_at=1.0, baseline_mib={0: 0}
    )
    second = replace(first, spec=absent("b", 4000).spec, claimed_at=2.0)
    nameless = view(first, second, absent("c", 8000), held={}, foreign_mib=4000, attributed=False, concurrent_leases=0)
    state = replace(
        nameless,
        devices={0: replace(nameless.devices[0], used_mib=4000, free_mib=24564 - 4000, attributed=False)},
    )

    decision = ask(state, "c")

    assert decision.free_mib == 24564 - 4000 - 4000, "a grew by 4000 MiB; the 4000 MiB of b are still reserved"


# -- victims -----------------------------------------------------------------------------------------------------------


def test_a_never_used_consumer_is_evicted_first_then_the_longest_unused() -> None:
    used = resident("recent", 6000, used_at=300), resident("old", 6000, used_at=100)
    never = resident("never", 6000)
    decision = ask(view(*used, never, absent("new", 11000), foreign_mib=6000), "new")

    assert evicted(decision) == ["never", "old"]
    assert "recent" in spared(decision)


def test_the_end_of_a_lease_counts_more_than_a_reported_use() -> None:
    worked = replace(resident("worked", 12000, used_at=200), reported_used_usec=999)
    probed = replace(resident("probed", 12000), reported_used_usec=300)
    decision = ask(view(worked, probed, absent("new", 10000)), "new")

    assert evicted(decision) == ["worked"], "its lease ended at 200; its own report does not count"


@pytest.mark.parametrize(
    ("victim", "why"),
    [
        (resident("x", 12000, leases=1), "leased"),
        (resident("x", 12000, pinned=True), "pinned"),
        (resident("x", 12000, vram_managed=True), "manages its own VRAM"),
        (resident("x", 12000, unload=None, unit="", evict=()), "has no unload route and no unit"),
    ],
    ids=["leased", "pinned", "vram-managed", "no-method"],
)
def test_an_exempt_consumer_is_never_evicted_and_the_reason_is_given(victim: object, why: str) -> None:
    decision = ask(view(victim, absent("new", 10000), foreign_mib=4000, concurrent_leases=0), "new")  # type: ignore[arg-type]

    assert decision.verdict is not Verdict.GRANT
    assert evicted(decision) == []
    assert spared(decision)["x"] == why


def test_superfluous_victims_are_dropped_from_the_plan() -> None:
    small, large = resident("small", 1000, used_at=1), resident("large", 12000, used_at=2)
    decision = ask(view(small, large, absent("new", 20000), foreign_mib=2000, total_mib=24564), "new")

    assert evicted(decision) == ["large"], "large alone suffices, so small, which is older, may stay"


def test_nothing_is_evicted_when_all_evictions_together_would_not_suffice() -> None:
    decision = ask(view(resident("a", 3000), resident("b", 3000), absent("new", 20000), foreign_mib=10000), "new")

    assert (decision.verdict, decision.error, evicted(decision)) == (Verdict.REFUSE, InsufficientVram, [])
    assert "9.8 GiB by firefox (unit session-1.scope, pid 99)" in decision.message


def test_a_request_waits_for_a_lease_that_blocks_it() -> None:
    decision = ask(view(resident("a", 20000, leases=1), absent("new", 10000), concurrent_leases=0), "new")

    assert (decision.verdict, decision.error) == (Verdict.WAIT, Busy)


def test_a_request_does_not_wait_where_foreign_memory_blocks_it_anyway() -> None:
    state = view(resident("a", 4000, leases=1), absent("new", 10000), foreign_mib=16000, concurrent_leases=0)

    assert ask(state, "new").error is InsufficientVram


def test_a_consumer_that_released_nothing_is_not_evicted_again_for_the_same_request() -> None:
    state = view(resident("stuck", 20000), absent("new", 10000), evict_failed=frozenset({"stuck"}))
    decision = ask(state, "new")

    assert decision.error is EvictionFailed
    assert "stuck released no VRAM when evicted" in decision.message


def test_unattributed_victims_are_not_credited_with_the_same_mib_twice() -> None:
    state = view(
        resident("a", 8000), resident("b", 8000), absent("new", 20000), held={"a": 5000, "b": 5000}, attributed=False
    )
    decision = ask(state, "new")

    assert decision.verdict is Verdict.GRANT
    assert sum(victim.expected_mib or 0 for victim in decision.evictions) <= 10000


def test_a_loaded_consumer_without_memory_in_its_unit_counts_as_unknown_use() -> None:
    container = resident("docker", 12000)
    state = view(container, absent("new", 20000), held={"docker": 0}, foreign_mib=12000)
    decision = ask(state, "new")

    assert evicted(decision) == ["docker"]


# -- one thing at a time -----------------------------------------------------------------------------------------------


def test_nothing_is_loaded_or_evicted_on_a_device_with_a_job() -> None:
    state = view(absent("a", 1000), absent("b", 1000), jobs={0: Job((0,), "a")}, concurrent_leases=0)

    assert ask(state, "b").verdict is Verdict.WAIT
    assert ask(state, "b").message == "device 0 is busy loading a"


def test_a_planned_victim_is_not_granted() -> None:
    state = view(resident("a", 1000), absent("b", 1000), jobs={0: Job((0,), "b", evicting=("a",))}, concurrent_leases=0)

    assert ask(state, "a").message == "a is about to be evicted"


def test_requests_wait_for_an_external_load_on_the_device() -> None:
    loading = replace(absent("a", 1000), residency=Residency.LOADING, devices=(0,), claimed_at=1.0, external_load=True)

    assert ask(view(loading, absent("b", 1000)), "b").message == "a is loading on device 0"


def test_a_starting_unit_may_acquire_its_own_consumer() -> None:
    loading = replace(absent("a", 1000), residency=Residency.LOADING, devices=(0,), claimed_at=1.0)
    state = view(loading, jobs={0: Job((0,), "a", takes_slot=True)})

    assert ask(state, "a").verdict is Verdict.WAIT
    assert ask(state, "a", from_own_unit=True).verdict is Verdict.GRANT


def test_room_is_made_for_an_externally_started_unit_that_acquires_itself() -> None:
    starting = replace(
        absent("a", 14000), residency=Residency.LOADING, devices=(0,), claimed_at=1.0, external_load=True
    )
    decision = ask(view(starting, resident("b", 20000)), "a", from_own_unit=True)

    assert evicted(decision) == ["b"]


# -- slots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "verdict"), [(1, Verdict.WAIT), (2, Verdict.GRANT), (0, Verdict.GRANT)])
def test_lease_slots_are_counted_on_the_device(slots: int, verdict: Verdict) -> None:
    state = view(resident("a", 1000, leases=1), resident("b", 1000), concurrent_leases=slots)

    assert ask(state, "b").verdict is verdict


def test_a_manual_load_needs_no_slot() -> None:
    state = view(resident("a", 1000, leases=1), absent("b", 1000))

    assert ask(state, "b", wants_lease=False).load


def test_leased_footprints_together_never_exceed_the_device() -> None:
    state = view(resident("a", 14000, leases=1), resident("b", 14000), held={"a": 9000, "b": 9000}, concurrent_leases=0)

    assert ask(state, "b").verdict is Verdict.WAIT


def test_only_a_request_that_cannot_delay_earlier_ones_may_backfill() -> None:
    state = view(
        resident("chat", 2000, pinned=True), resident("image", 4000), absent("big", 12000), concurrent_leases=0
    )

    assert may_backfill(state, "chat", (0,), ["big"]), "pinned: big could never evict it"
    assert not may_backfill(state, "image", (0,), ["big"]), "big may need the memory that image holds"
    one_slot = replace(state, settings=replace(state.settings, concurrent_leases=1))
    assert not may_backfill(one_slot, "chat", (0,), ["big"])


# -- degraded ----------------------------------------------------------------------------------------------------------


def test_without_readings_declared_footprints_count_against_the_configured_total() -> None:
    blind = view(resident("a", 14000), absent("b", 14000), known=False)

    assert evicted(ask(blind, "b")) == ["a"]
    assert ask(blind, "b").evictions[0].expected_mib is None


def test_without_a_total_the_fit_check_is_skipped_and_nothing_is_evicted() -> None:
    blind = view(resident("a", 14000), absent("b", 14000), known=False, total_mib=None)

    assert (ask(blind, "b").load, ask(blind, "b").evictions) == (True, ())


def test_unknown_residency_counts_as_loaded_without_readings() -> None:
    unknown = replace(absent("a", 14000), residency=Residency.UNKNOWN)

    assert evicted(ask(view(unknown, absent("b", 14000), known=False), "b")) == ["a"]


def test_a_lost_device_is_unavailable() -> None:
    state = view(absent("a", 1000))
    lost = replace(state, devices={0: replace(state.devices[0], lost=True, error="gpu-lost: GPU is lost")})

    assert ask(lost, "a").error is DeviceUnavailable


def test_a_failed_consumer_is_refused_with_the_time_until_the_retry() -> None:
    failed = replace(absent("a", 1000), residency=Residency.FAILED, retry_at=1007.4, error="exit-code")
    decision = ask(view(failed), "a")

    assert decision.error is ConsumerBackingOff
    assert "7 s" in decision.message


def test_an_unknown_consumer_is_refused_by_name() -> None:
    assert ask(view(), "unknown").error is NoSuchConsumer


# -- several devices ---------------------------------------------------------------------------------------------------


def two_devices(*states: object, free: tuple[int, int]) -> View:
    base = view(*states, held={})  # type: ignore[arg-type]
    samples = {
        index: replace(
            base.devices[0], index=index, uuid=f"GPU-{index}", used_mib=24564 - mib, free_mib=mib, processes=()
        )
        for index, mib in enumerate(free)
    }
    return replace(base, devices=samples)


def test_the_device_with_the_most_free_vram_that_fits_is_chosen() -> None:
    assert ask(two_devices(absent("a", 1000), free=(9000, 12000)), "a").place == (1,)
    assert ask(two_devices(absent("a", 1000), free=(12000, 9000)), "a").place == (0,)


def test_a_named_device_is_the_only_one_tried() -> None:
    decision = ask(two_devices(absent("a", 10000), free=(9000, 12000)), "a", devices=(0,))

    assert (decision.place, decision.error) == ((0,), InsufficientVram)


def test_a_device_where_it_fits_comes_before_one_with_evictions() -> None:
    old = resident("old", 20000)
    state = two_devices(old, absent("a", 8000), free=(4000, 9000))

    decision = ask(state, "a")

    assert (decision.place, decision.evictions) == ((1,), ())
