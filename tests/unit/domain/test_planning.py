"""The rules of admission, one scenario each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import Residency
from gpumand.domain.errors import (
    Busy,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    InsufficientVram,
    NoSuchConsumer,
)
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.request import Verdict
from gpumand.domain.strict_backfill import may_pass
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
    assert not decision.looked_at_vram, "no figure needs to be read for what is there already"


def test_the_image_service_is_evicted_to_fit_the_voice_service() -> None:
    decision = ask(view(resident("image", IMAGE), absent("voice", VOICE), foreign_mib=8800), "voice")

    assert (decision.verdict, decision.load, evicted(decision)) == (Verdict.GRANT, True, ["image"])
    assert decision.evictions[0].expected_mib == IMAGE
    assert decision.need_mib == VOICE + CUSHION


def test_a_coexisting_lru_candidate_is_passed_over() -> None:
    oldest = resident("llm", 8000, used_at=1)
    newer = resident("image", IMAGE, used_at=2)
    decision = ask(
        view(oldest, newer, absent("voice", VOICE, can_coexist_with=frozenset({"llm"})), foreign_mib=900), "voice"
    )

    assert evicted(decision) == ["image"]
    assert spared(decision)["llm"] == "voice can coexist with it"


# -- fit ---------------------------------------------------------------------------------------------------------------


def test_what_fits_beside_the_others_is_loaded_beside_them() -> None:
    decision = ask(view(resident("image", IMAGE), absent("voice", VOICE)), "voice")

    assert (decision.verdict, decision.load, decision.evictions) == (Verdict.GRANT, True, ())
    assert decision.looked_at_vram


@pytest.mark.parametrize(("free_mib", "evictions"), [(VOICE + CUSHION, 0), (VOICE + CUSHION - 1, 1)])
def test_the_cushion_decides_to_the_mib(free_mib: int, evictions: int) -> None:
    state = view(resident("image", IMAGE), absent("voice", VOICE), total_mib=IMAGE + free_mib)

    assert len(ask(state, "voice").evictions) == evictions


def test_what_the_target_holds_already_is_not_needed_twice() -> None:
    half_there = view(absent("voice", VOICE), held={"voice": 2000}, total_mib=2000 + 867 + CUSHION)

    assert ask(half_there, "voice").verdict is Verdict.GRANT
    assert ask(half_there, "voice").need_mib == 867 + CUSHION


def test_more_than_the_device_has_is_refused_with_both_figures() -> None:
    decision = ask(view(absent("huge", 50000)), "huge")

    assert decision.error is InsufficientVram
    assert "48.8 GiB" in decision.message
    assert "24.0 GiB" in decision.message


@pytest.mark.parametrize("mib", [50000, 24564 - CUSHION + 1])
def test_what_can_never_fit_does_not_wait_for_a_lease_to_end(mib: int) -> None:
    decision = ask(view(resident("a", 3000, leases=1), absent("huge", mib), concurrent_leases=1), "huge")

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InsufficientVram)


def test_who_fits_only_without_the_cushion_is_not_told_to_look_for_who_is_in_the_way() -> None:
    decision = ask(view(resident("a", 3000), absent("snug", 24564 - CUSHION + 100)), "snug")

    assert (decision.error, evicted(decision)) == (InsufficientVram, [])
    assert "for its cushion; device 0 has 24.0 GiB" in decision.message


def test_a_promised_footprint_is_not_there_for_others_although_nvml_shows_it_free() -> None:
    loading = replace(absent("image", IMAGE), residency=Residency.RESIDENT, devices=(0,), leases=1, claimed_at=1.0)
    decision = ask(view(loading, absent("other", 12000), held={"image": 1000}, concurrent_leases=0), "other")

    assert decision.verdict is Verdict.WAIT
    assert "promised to image" in decision.message


def test_a_reservation_shrinks_as_the_consumer_grows() -> None:
    lazy = replace(absent("image", 10000), residency=Residency.RESIDENT, devices=(0,), leases=1, claimed_at=1.0)
    asked = absent("other", 13000)
    for held_mib in (0, 4000, 10000):
        state = view(lazy, asked, held={"image": held_mib} if held_mib else {"image": 1}, concurrent_leases=0)
        decision = ask(state, "other")
        assert decision.free_mib == pytest.approx(24564 - 10000, abs=1), f"image holds {held_mib} MiB"


def test_growth_that_nobody_is_named_for_shrinks_one_reservation_only() -> None:
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

    assert decision.free_mib == 24564 - 4000 - 4000, "one grew by 4000; the other's 4000 are still to come"


# -- victims -----------------------------------------------------------------------------------------------------------


def test_never_used_loses_first_then_the_longest_unused() -> None:
    used = resident("recent", 6000, used_at=300), resident("old", 6000, used_at=100)
    never = resident("never", 6000)
    decision = ask(view(*used, never, absent("new", 11000), foreign_mib=6000), "new")

    assert evicted(decision) == ["never", "old"]
    assert "recent" in spared(decision)


def test_work_done_under_a_lease_beats_what_a_probe_reports() -> None:
    worked = replace(resident("worked", 12000, used_at=200), probed_usec=999)
    probed = replace(resident("probed", 12000), probed_usec=300)
    decision = ask(view(worked, probed, absent("new", 10000)), "new")

    assert evicted(decision) == ["worked"], "its lease ended at 200; what it claims about itself does not count"


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
def test_who_is_exempt_is_never_evicted_and_the_reason_is_told(victim: object, why: str) -> None:
    decision = ask(view(victim, absent("new", 10000), foreign_mib=4000, concurrent_leases=0), "new")  # type: ignore[arg-type]

    assert decision.verdict is not Verdict.GRANT
    assert evicted(decision) == []
    assert spared(decision)["x"] == why


def test_victims_that_turn_out_not_to_be_needed_are_dropped_from_the_plan() -> None:
    small, large = resident("small", 1000, used_at=1), resident("large", 12000, used_at=2)
    decision = ask(view(small, large, absent("new", 20000), foreign_mib=2000, total_mib=24564), "new")

    assert evicted(decision) == ["large"], "large alone suffices, so small, which is older, may stay"


def test_nobody_is_evicted_when_all_of_them_would_not_suffice() -> None:
    decision = ask(view(resident("a", 3000), resident("b", 3000), absent("new", 20000), foreign_mib=10000), "new")

    assert (decision.verdict, decision.error, evicted(decision)) == (Verdict.REFUSE, InsufficientVram, [])
    assert "9.8 GiB by firefox (unit session-1.scope, pid 99)" in decision.message


def test_a_lease_in_the_way_is_worth_waiting_for() -> None:
    decision = ask(view(resident("a", 20000, leases=1), absent("new", 10000), concurrent_leases=0), "new")

    assert (decision.verdict, decision.error) == (Verdict.WAIT, Busy)


def test_a_foreign_process_is_not_worth_waiting_for_even_beside_a_lease() -> None:
    state = view(resident("a", 4000, leases=1), absent("new", 10000), foreign_mib=16000, concurrent_leases=0)

    assert ask(state, "new").error is InsufficientVram


def test_one_that_gave_nothing_back_is_not_tried_again_for_the_same_request() -> None:
    state = view(resident("liar", 20000), absent("new", 10000), evict_failed=frozenset({"liar"}))
    decision = ask(state, "new")

    assert decision.error is EvictionFailed
    assert "liar gave nothing back" in decision.message


def test_unattributed_victims_are_not_credited_with_the_same_mib_twice() -> None:
    state = view(
        resident("a", 8000), resident("b", 8000), absent("new", 20000), held={"a": 5000, "b": 5000}, attributed=False
    )
    decision = ask(state, "new")

    assert decision.verdict is Verdict.GRANT
    assert sum(victim.expected_mib or 0 for victim in decision.evictions) <= 10000


def test_a_loaded_consumer_whose_unit_holds_nothing_runs_elsewhere_and_is_unknown_not_zero() -> None:
    container = resident("docker", 12000)
    state = view(container, absent("new", 20000), held={"docker": 0}, foreign_mib=12000)
    decision = ask(state, "new")

    assert evicted(decision) == ["docker"]


# -- one thing at a time -----------------------------------------------------------------------------------------------


def test_nothing_is_loaded_or_evicted_beside_a_job() -> None:
    state = view(absent("a", 1000), absent("b", 1000), jobs={0: Job((0,), "a")}, concurrent_leases=0)

    assert ask(state, "b").verdict is Verdict.WAIT
    assert ask(state, "b").message == "loading a on device 0"


def test_a_victim_to_be_is_not_lent_out() -> None:
    state = view(resident("a", 1000), absent("b", 1000), jobs={0: Job((0,), "b", evicting=("a",))}, concurrent_leases=0)

    assert ask(state, "a").message == "a is about to be evicted"


def test_an_unasked_load_keeps_the_device_quiet() -> None:
    loading = replace(absent("a", 1000), residency=Residency.LOADING, devices=(0,), claimed_at=1.0, unasked=True)

    assert ask(view(loading, absent("b", 1000)), "b").message == "a is loading on device 0"


def test_the_unit_that_is_being_started_for_somebody_gets_its_own_reservation() -> None:
    loading = replace(absent("a", 1000), residency=Residency.LOADING, devices=(0,), claimed_at=1.0)
    state = view(loading, jobs={0: Job((0,), "a", takes_slot=True)})

    assert ask(state, "a").verdict is Verdict.WAIT
    assert ask(state, "a", from_own_unit=True).verdict is Verdict.GRANT


def test_a_unit_that_somebody_else_starts_has_room_made_for_it_when_it_asks_itself() -> None:
    starting = replace(absent("a", 14000), residency=Residency.LOADING, devices=(0,), claimed_at=1.0, unasked=True)
    decision = ask(view(starting, resident("b", 20000)), "a", from_own_unit=True)

    assert evicted(decision) == ["b"]


# -- slots -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("slots", "verdict"), [(1, Verdict.WAIT), (2, Verdict.GRANT), (0, Verdict.GRANT)])
def test_lease_slots_are_counted_on_the_device(slots: int, verdict: Verdict) -> None:
    state = view(resident("a", 1000, leases=1), resident("b", 1000), concurrent_leases=slots)

    assert ask(state, "b").verdict is verdict


def test_a_load_by_hand_needs_no_slot() -> None:
    state = view(resident("a", 1000, leases=1), absent("b", 1000))

    assert ask(state, "b", wants_lease=False).load


def test_leased_footprints_together_never_exceed_the_device() -> None:
    state = view(resident("a", 14000, leases=1), resident("b", 14000), held={"a": 9000, "b": 9000}, concurrent_leases=0)

    assert ask(state, "b").verdict is Verdict.WAIT


def test_only_who_cannot_delay_those_ahead_may_pass_them() -> None:
    state = view(
        resident("chat", 2000, pinned=True), resident("image", 4000), absent("big", 12000), concurrent_leases=0
    )

    assert may_pass(state, "chat", (0,), ["big"]), "pinned: big could never have evicted it"
    assert not may_pass(state, "image", (0,), ["big"]), "big may need what image holds"
    one_slot = replace(state, settings=replace(state.settings, concurrent_leases=1))
    assert not may_pass(one_slot, "chat", (0,), ["big"])


# -- degraded ----------------------------------------------------------------------------------------------------------


def test_without_figures_declared_footprints_are_set_against_the_configured_total() -> None:
    blind = view(resident("a", 14000), absent("b", 14000), known=False)

    assert evicted(ask(blind, "b")) == ["a"]
    assert ask(blind, "b").evictions[0].expected_mib is None


def test_without_any_total_the_fit_check_is_skipped_and_nobody_is_evicted_on_a_guess() -> None:
    blind = view(resident("a", 14000), absent("b", 14000), known=False, total_mib=None)

    assert (ask(blind, "b").load, ask(blind, "b").evictions) == (True, ())


def test_unknown_residency_counts_as_held_where_only_declarations_are_known() -> None:
    unknown = replace(absent("a", 14000), residency=Residency.UNKNOWN)

    assert evicted(ask(view(unknown, absent("b", 14000), known=False), "b")) == ["a"]


def test_a_lost_device_is_unavailable() -> None:
    state = view(absent("a", 1000))
    lost = replace(state, devices={0: replace(state.devices[0], lost=True, error="gpu-lost: GPU is lost")})

    assert ask(lost, "a").error is DeviceUnavailable


def test_a_consumer_that_failed_is_left_alone_and_the_time_left_is_told() -> None:
    failed = replace(absent("a", 1000), residency=Residency.FAILED, retry_at=1007.4, error="exit-code")
    decision = ask(view(failed), "a")

    assert decision.error is ConsumerBackingOff
    assert "7 s" in decision.message


def test_an_unknown_consumer_is_refused_by_name() -> None:
    assert ask(view(), "nobody").error is NoSuchConsumer


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
