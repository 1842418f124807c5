"""Rules for GPUs that use host RAM, and for cards that are asleep: what counts as free, and what proves an eviction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain import budget, host_ram, parking
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.device import Pool, Sample
from gpumand.domain.eviction_check import EvictionCheck, MultiDeviceEvictionCheck
from gpumand.domain.victims import permanent_exemption
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import describe_holders
from tests.unit.domain.build import resident, spec, view

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def on(before: View, **changes: Any) -> View:
    """The same view on a device with these properties."""
    return replace(before, devices={0: replace(before.devices[0], **changes)})


def parking_consumer(*methods: EvictionMethod) -> ConsumerState:
    return resident("llm", 8000, evict=methods, parks=True, parked_host_mib=1000, unit="llm.service")


# -- parking -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [Pool.UNIFIED, Pool.HOST])
def test_a_consumer_whose_gpu_uses_host_ram_is_stopped_instead_of_parked(pool: Pool) -> None:
    state, target = parking_consumer(*BOTH), resident("new", 20000)
    before = replace(view(state), host_available_mib=100_000)

    def method(now: View) -> str:
        return parking.choose(now, (0,), target, {0: 4000}, 3).victims[0].method

    assert method(before) == "http"
    assert method(on(before, pool=pool)) == "unit-stop"
    assert host_ram.eviction_method_now(before, state) is EvictionMethod.HTTP
    assert host_ram.eviction_method_now(on(before, pool=pool), state) is EvictionMethod.UNIT_STOP


def test_a_consumer_that_can_only_be_parked_is_no_victim_there() -> None:
    state, target = parking_consumer(EvictionMethod.HTTP), resident("new", 20000)
    before = replace(view(state), host_available_mib=100_000)
    assert permanent_exemption(before, state, target) == ""
    unified = on(before, pool=Pool.UNIFIED)
    assert permanent_exemption(unified, state, target) == host_ram.NOTHING_TO_PARK
    choice = parking.choose(unified, (0,), target, {0: 4000}, 3)
    assert (choice.suffices, [one.why for one in choice.spared]) == (False, [host_ram.NOTHING_TO_PARK])


def test_a_consumer_on_a_card_and_on_a_unified_pool_may_be_parked() -> None:
    state = replace(parking_consumer(*BOTH), devices=(0, 1))
    before = view(state)
    devices = {0: replace(before.devices[0], pool=Pool.UNIFIED), 1: replace(before.devices[0], index=1)}
    assert not host_ram.shares_host_ram(replace(before, devices=devices), state)


# -- proof of an eviction ----------------------------------------------------------------------------------------------

HELD = view(resident("a", 8000), foreign_mib=9000).devices[0]
GONE = view(resident("a", 8000), held={"a": 0}, foreign_mib=9000).devices[0]


def check(before: Sample, held_mib: int | None) -> EvictionCheck:
    return EvictionCheck(spec("a", 8000), before, held_mib, 8000)


def pooled(sample: Sample, **changes: Any) -> Sample:
    return replace(sample, pool=Pool.UNIFIED, proves_release=False, **changes)


def unlisted(sample: Sample) -> Sample:
    return replace(sample, processes=(), attributed=False, attributable=frozenset())


def test_the_rise_of_a_pool_that_other_programs_share_is_no_proof() -> None:
    before, after = pooled(unlisted(HELD)), pooled(unlisted(GONE))
    assert after.free_mib is not None
    assert before.free_mib is not None
    assert after.free_mib - before.free_mib == 8000
    assert not check(before, None).settled(after)
    assert check(before, None).freed_mib(after) is None
    assert not check(before, None).only_residual_left(after)
    assert check(before, None).proves_nothing(after)


def test_the_end_of_its_process_is_proof_although_the_pool_did_not_rise() -> None:
    after = pooled(GONE, free_mib=HELD.free_mib, used_mib=HELD.used_mib)
    assert check(pooled(HELD), 8000).settled(after)
    assert check(pooled(HELD), 8000).freed_mib(after) == 8000
    assert not check(pooled(HELD), 8000).proves_nothing(after)
    # On a card the driver may still hold the memory of a process that it lists no more.
    assert not check(HELD, 8000).settled(replace(GONE, free_mib=HELD.free_mib))


def test_memory_of_the_gpu_counts_in_a_pool_that_the_driver_accounts_for() -> None:
    """GTT of an AMD processor: free memory is bounded by host RAM, but the used amount is the GPU's own."""
    before = replace(unlisted(HELD), pool=Pool.UNIFIED)
    assert before.used_mib is not None
    ram_rose = replace(before, free_mib=(before.free_mib or 0) + 50_000)
    assert not check(before, None).settled(ram_rose)
    freed = replace(before, used_mib=before.used_mib - 8000)
    assert check(before, None).settled(freed)
    nearly = replace(before, used_mib=before.used_mib - 8000 + 1500)
    assert check(before, None).settled(nearly)
    assert not check(replace(before, pool=Pool.VRAM), None).settled(nearly)


def test_a_card_that_falls_asleep_during_the_eviction_has_released_nothing() -> None:
    """Suspending moves the memory to host RAM, and the driver shows the card as empty."""
    asleep = replace(unlisted(HELD), used_mib=5, free_mib=24000, asleep=True, proves_release=False)
    before = unlisted(HELD)
    assert not check(before, None).settled(asleep)
    assert check(before, None).freed_mib(asleep) is None
    assert MultiDeviceEvictionCheck(spec("a", 8000), {0: check(before, None)}).proves_nothing({0: asleep})
    # KFD still lists the process, with what it has allocated.
    still_listed = replace(HELD, used_mib=8000, free_mib=16000, asleep=True, proves_release=False)
    assert not check(HELD, 8000).settled(still_listed)
    assert check(HELD, 8000).settled(replace(GONE, asleep=True, proves_release=False))


def test_an_unreadable_device_is_not_one_that_proves_nothing() -> None:
    unreadable = replace(unlisted(HELD), used_mib=None, free_mib=None)
    assert not check(unlisted(HELD), None).proves_nothing(unreadable)
    assert not MultiDeviceEvictionCheck(spec("a", 8000), {}).proves_nothing({})


# -- free memory of a card that is asleep ------------------------------------------------------------------------------


def sleeping(*states: ConsumerState) -> View:
    before = view(*states)
    return on(before, used_mib=5, free_mib=24571, processes=(), attributed=False, attributable=frozenset(), asleep=True)


def test_memory_moved_out_of_a_sleeping_card_is_not_free() -> None:
    now = sleeping(resident("a", 20000), resident("new", 10000))
    assert budget.free_mib(now, 0, "new") == 24571 - (20000 - 5)
    awake = on(now, asleep=False)
    assert budget.free_mib(awake, 0, "new") == 24571


def test_evicting_a_consumer_of_a_sleeping_card_is_expected_to_free_its_footprint() -> None:
    state = resident("a", 20000)
    now = sleeping(state)
    assert budget.freeable_mib(now.devices[0], state, 5) == 20000
    assert budget.freeable_mib(on(now, asleep=False).devices[0], state, 5) == 5


def test_memory_that_the_reading_shows_is_not_counted_twice() -> None:
    state, other = resident("a", 8000), resident("new", 10000)
    now = on(view(state, other, held={"a": 8000, "new": 0}), asleep=True)
    assert budget.free_mib(now, 0, "new") == now.devices[0].free_mib


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "in use by processes that the driver does not name"),
        ({"pool": Pool.UNIFIED, "proves_release": False}, "of host RAM in use by other programs"),
        # On AMD the used amount is that of the GPU, whatever its pool is.
        ({"pool": Pool.UNIFIED}, "in use by processes that the driver does not name"),
    ],
)
def test_what_is_in_use_in_a_shared_pool_is_host_ram_of_other_programs(changes: dict[str, Any], words: str) -> None:
    now = on(view(resident("a", 1000)), used_mib=9000, free_mib=15576, **changes)
    assert describe_holders(now, 0).startswith(f"7.8 GiB {words}")
