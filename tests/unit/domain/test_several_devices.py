"""Consumers on several devices at once: all of them or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import Devices, ProcessUse, Sample, format_devices, parse_devices
from gpumand.domain.errors import DeviceUnavailable, InsufficientVram
from gpumand.domain.eviction_check import EvictionCheck, MultiDeviceEvictionCheck
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.planning import decide, decide_within_job
from gpumand.domain.queue_pass import QueueEntry, QueuePass
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident

TOTAL_MIB = 24000


def on(state: ConsumerState, *devices: int) -> ConsumerState:
    return replace(state, devices=devices)


def wide(name: str, mib: int, count: int = 2, **more: object) -> ConsumerState:
    """A consumer that is not loaded and needs several devices."""
    return absent(name, mib, device_count=count, **more)


def host(
    *states: ConsumerState,
    devices: int = 2,
    jobs: dict[int, Job] | None = None,
    slots: int = 0,
    policy: Policy = Policy.LRU,
    max_evictions: int = 5,
) -> View:
    """Devices on which residents hold their footprints."""
    samples = {index: _sample(index, states) for index in range(devices)}
    leases = {index: sum(one.leases for one in states if index in one.devices) for index in range(devices)}
    settings = SchedulerSettings(concurrent_leases=slots, policy=policy, max_evictions=max_evictions)
    return View(settings, samples, {one.name: one for one in states}, leases, jobs or {}, now=1000.0)


def _sample(index: int, states: tuple[ConsumerState, ...]) -> Sample:
    held = [one for one in states if one.residency is Residency.RESIDENT and index in one.devices]
    processes = tuple(ProcessUse(100 + at, one.footprint_mib, one.name, "", one.name) for at, one in enumerate(held))
    used_mib = sum(one.footprint_mib for one in held)
    names = frozenset(one.name for one in states)
    uuid, free_mib = f"GPU-{index}", TOTAL_MIB - used_mib
    return Sample(index, uuid, "GPU", "test", TOTAL_MIB, used_mib, free_mib, processes, True, names)


def ask(at: View, name: str = "big", devices: Devices = ()) -> Decision:
    return decide(at, Requirement(name, devices))


def victims(decision: Decision) -> list[str]:
    return [one.consumer for one in decision.evictions]


def test_two_devices_with_room_are_taken_together() -> None:
    decision = ask(host(wide("big", 20000), devices=3))

    assert (decision.verdict, decision.place, decision.evictions) == (Verdict.GRANT, (0, 1), ())
    assert decision.message == "big needs 19.8 GiB on each of devices 0, 1, 23.4 GiB free"


def test_a_victim_is_evicted_on_each_device_that_lacks_memory() -> None:
    decision = ask(host(wide("big", 20000), on(resident("a", 8000), 0), on(resident("b", 8000), 1)))

    assert (decision.place, sorted(victims(decision))) == ((0, 1), ["a", "b"])
    assert (decision.need_mib, decision.free_mib) == (20256, 16000)


def test_nothing_is_evicted_on_a_device_with_enough_memory() -> None:
    decision = ask(host(wide("big", 20000), on(resident("a", 8000), 0), on(resident("b", 2000), 1)))

    assert victims(decision) == ["a"]
    assert [one.consumer for one in decision.spared] == ["b"]


def test_a_victim_on_both_devices_counts_once_and_frees_on_both() -> None:
    both = on(resident("both", 9000, used_at=9, device_count=2), 0, 1)
    at = host(wide("big", 19000), both, on(resident("a", 4000), 0), on(resident("b", 4000), 1), max_evictions=1)

    decision = ask(at)

    assert victims(decision) == ["both"]
    assert decision.evictions[0].expected_mib == 18000


def test_lru_prefers_two_old_victims_to_a_recent_one_on_both_devices() -> None:
    both = on(resident("both", 8000, used_at=9, device_count=2), 0, 1)
    at = host(wide("big", 15000), both, on(resident("a", 8000), 0), on(resident("b", 8000), 1))

    assert sorted(victims(ask(at))) == ["a", "b"]


def test_nothing_is_evicted_on_one_device_while_the_other_is_leased() -> None:
    leased = on(resident("leased", 8000, leases=1), 1)
    decision = ask(host(wide("big", 15900), on(resident("a", 8000), 0), leased))

    assert (decision.verdict, decision.evictions, decision.eligible_devices) == (Verdict.WAIT, (), (0, 1))
    assert "devices 0, 1 are leased to leased" in decision.message


def test_nothing_is_evicted_on_one_device_when_the_other_can_never_be_freed() -> None:
    pinned = on(resident("pinned", 8000, pinned=True), 1)
    decision = ask(host(wide("big", 20000), on(resident("a", 8000), 0), pinned))

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InsufficientVram)
    assert "on device 1" in decision.message
    assert "pinned" in decision.message


def test_a_third_device_is_taken_instead_of_a_leased_one() -> None:
    leased = on(resident("leased", 8000, leases=1), 1)

    assert ask(host(wide("big", 20000), leased, devices=3)).place == (0, 2)


def test_a_request_waits_for_the_lease_slot_of_each_device() -> None:
    small = on(resident("small", 100, leases=1), 1)
    decision = ask(host(wide("big", 20000), small, slots=1))

    assert (decision.verdict, decision.message) == (Verdict.WAIT, "device 1 is leased to small")


def test_a_request_waits_for_a_job_on_one_of_its_devices() -> None:
    at = host(wide("big", 20000), absent("other", 100), jobs={1: Job((1,), "other")})

    assert ask(at).message == "device 1 is busy loading other"


def test_a_job_does_not_block_itself_on_its_devices() -> None:
    job = Job((0, 1), "big", extra_devices=(2,))
    at = host(wide("big", 20000), devices=3, jobs={0: job, 1: job, 2: job})

    assert decide_within_job(at, Requirement("big"), (0, 1)).verdict is Verdict.GRANT
    assert ask(at).verdict is Verdict.WAIT


def test_a_refusal_reports_how_many_devices_are_missing() -> None:
    decision = ask(host(wide("big", 100, count=3)))

    assert (decision.error, decision.message) == (
        DeviceUnavailable,
        "big needs 3 devices at once, but 2 are present (present: devices 0, 1). "
        "Correct device_count in consumers.big, or check the driver.",
    )


@pytest.mark.parametrize(("wanted", "place"), [((2,), (0, 2)), ((1, 2), (1, 2)), ((), (0, 1))])
def test_the_requested_device_is_among_those_taken(wanted: Devices, place: Devices) -> None:
    assert ask(host(wide("big", 100), devices=3), devices=wanted).place == place


def test_configured_devices_are_the_only_ones_taken() -> None:
    assert ask(host(wide("big", 100, devices=("3", "GPU-1")), devices=4)).place == (1, 3)
    three = host(wide("big", 100, devices=("3", "GPU-1", "0")), on(resident("a", 8000), 0), devices=4)
    assert ask(three).place == (1, 3), "the two of three with the most free memory"


def test_a_missing_configured_device_is_named_among_several() -> None:
    decision = ask(host(wide("big", 100, devices=("0", "GPU-9"))))

    assert (decision.error, decision.message) == (
        DeviceUnavailable,
        "device GPU-9, configured for big, is not present (present: devices 0, 1). "
        "Correct device in consumers.big, or check the driver.",
    )


def test_suitable_devices_are_found_among_many() -> None:
    busy = [on(resident(f"r{index}", 20000, leases=1), index) for index in range(0, 24, 2)]

    assert ask(host(wide("big", 20000, count=6), *busy, devices=24)).place == (1, 3, 5, 7, 9, 11)


def test_a_resident_consumer_on_two_devices_is_granted_on_both_or_waits() -> None:
    there = on(resident("big", 8000, device_count=2), 0, 1)

    assert ask(host(there)).resident
    assert ask(host(there)).place == (0, 1)
    blocked = ask(host(there, on(resident("a", 100, leases=1), 1), slots=1))
    assert (blocked.verdict, blocked.message) == (Verdict.WAIT, "device 1 is leased to a")


def test_a_consumer_is_not_evicted_while_a_load_runs_on_another_of_its_devices() -> None:
    """Its memory would become free there too, where the service that is starting measures what is free."""
    both = on(resident("both", 20000, device_count=2), 0, 1)
    at = host(absent("new", 20000, devices=("0",)), both, absent("other", 100), jobs={1: Job((1,), "other")})

    decision = decide(at, Requirement("new"))

    assert (decision.verdict, decision.evictions) == (Verdict.WAIT, ())
    assert decide(replace(at, jobs={}), Requirement("new")).extra_devices == (1,)


def test_adaptive_chooses_the_device_with_the_cheapest_victim() -> None:
    def worth(name: str, load_sec: float, mib: int) -> ConsumerState:
        return replace(resident(name, mib), times=LearnedTimes().observe_load(load_sec, Start.PARKED))

    dear, cheap = on(worth("dear", 60.0, 14000), 0), on(worth("cheap", 1.0, 16000), 1)
    at = host(absent("new", 12000), dear, cheap)

    assert ask(at, "new").place == (0,), "lru: one victim on either, and the first device has more free"
    assert ask(replace(at, settings=SchedulerSettings(policy=Policy.ADAPTIVE)), "new").place == (1,)


def test_a_device_with_enough_memory_comes_before_a_cheap_eviction() -> None:
    at = host(absent("new", 12000), on(resident("a", 14000), 0), on(resident("b", 11000, leases=1), 1))
    adaptive = SchedulerSettings(policy=Policy.ADAPTIVE, concurrent_leases=0)

    assert ask(replace(at, settings=adaptive), "new").place == (1,)


def test_a_request_that_waits_for_two_devices_is_not_overtaken_on_either() -> None:
    at = host(wide("big", 20000), absent("a", 100), on(resident("leased", 8000, leases=1), 1), slots=1)
    entries = [QueueEntry(1, Requirement("big")), QueueEntry(2, Requirement("a"))]
    queue_pass = QueuePass(entries)
    first = queue_pass.resolve(at, entries[0], ask(at))
    queue_pass.mark_waiting(entries[0], first.decision.eligible_devices)

    second = queue_pass.resolve(at, entries[1], ask(at, "a"))

    assert (second.decision.verdict, second.decision.message) == (Verdict.WAIT, "1 request is ahead of it")


def test_devices_are_formatted_with_commas() -> None:
    assert [format_devices(one) for one in ((), (0,), (3, 12))] == ["", "0", "3,12"]
    assert [parse_devices(one) for one in ("", "0", "12,3,3", "x", "1,²")] == [(), (0,), (3, 12), (), (1,)]


def test_a_footprint_on_two_devices_is_reserved_on_each() -> None:
    lazy = replace(wide("lazy", 20000), residency=Residency.RESIDENT, devices=(0, 1), leases=1, claimed_at=1.0)
    unseen = host(lazy, absent("a", 8000, devices=("1",)))
    nothing = {at: replace(one, used_mib=0, free_mib=TOTAL_MIB, processes=()) for at, one in unseen.devices.items()}

    decision = decide(replace(unseen, devices=nothing), Requirement("a"))

    assert (decision.verdict, decision.message) == (
        Verdict.WAIT,
        "a needs 7.8 GiB, but 19.5 GiB of 23.4 GiB on device 1 is reserved for lazy",
    )


def test_an_eviction_has_settled_when_every_device_shows_the_memory_as_free() -> None:
    both = on(resident("both", 8000, device_count=2), 0, 1)
    before, after = host(both).devices, host(replace(both, residency=Residency.UNLOADED)).devices
    check = MultiDeviceEvictionCheck(both.spec, {at: EvictionCheck(both.spec, before[at], 8000, 8000) for at in (0, 1)})

    assert (check.expected_mib, check.freed_mib(before)) == (16000, 0)
    half = {0: after[0], 1: before[1]}
    assert (check.freed_mib(half), check.settled(half), check.released_by_processes(half)) == (8000, False, False)
    assert (check.freed_mib(after), check.settled(after), check.released_by_processes(after)) == (
        16000,
        True,
        True,
    )


def test_an_eviction_does_not_wait_for_a_device_without_a_reading_beforehand() -> None:
    both = on(resident("both", 8000, device_count=2), 0, 1)
    before, after = host(both).devices, host(replace(both, residency=Residency.UNLOADED)).devices
    blind = replace(before[1], used_mib=None, free_mib=None, processes=(), attributed=False)
    parts = {0: EvictionCheck(both.spec, before[0], 8000, 8000), 1: EvictionCheck(both.spec, blind, None, 8000)}
    check = MultiDeviceEvictionCheck(both.spec, parts)

    assert (check.is_known, check.can_be_measured) == (False, True)
    assert check.settled({0: after[0], 1: blind})
    assert not MultiDeviceEvictionCheck(both.spec, {1: parts[1]}).can_be_measured
