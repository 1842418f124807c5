"""Consumers on several devices at once: all of them or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import Policy, Residency, SchedulerSettings
from gpumand.domain.device import Devices, ProcessUse, Sample, devices_of, devices_text
from gpumand.domain.errors import DeviceUnavailable, InsufficientVram
from gpumand.domain.eviction_check import EvictionCheck, MultiDeviceEvictionCheck
from gpumand.domain.learning import Learned, Start
from gpumand.domain.planning import Decision, Requirement, decide, decide_inside
from gpumand.domain.queue_pass import QueueEntry, QueuePass
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident

TOTAL_MIB = 24000


def on(state: ConsumerState, *devices: int) -> ConsumerState:
    return replace(state, devices=devices)


def wide(name: str, mib: int, count: int = 2, **more: object) -> ConsumerState:
    """Not loaded, and in need of several devices."""
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
    assert decision.message == "big needs 19.8 GiB on each of devices 0, 1, 23.4 GiB are free"


def test_somebody_goes_on_each_device_that_is_short() -> None:
    decision = ask(host(wide("big", 20000), on(resident("a", 8000), 0), on(resident("b", 8000), 1)))

    assert (decision.place, sorted(victims(decision))) == ((0, 1), ["a", "b"])
    assert (decision.need_mib, decision.free_mib) == (20256, 16000)


def test_only_the_device_that_is_short_loses_somebody() -> None:
    decision = ask(host(wide("big", 20000), on(resident("a", 8000), 0), on(resident("b", 2000), 1)))

    assert victims(decision) == ["a"]
    assert [one.consumer for one in decision.spared] == ["b"]


def test_a_victim_on_both_devices_counts_once_and_frees_on_both() -> None:
    both = on(resident("both", 9000, used_at=9, device_count=2), 0, 1)
    at = host(wide("big", 19000), both, on(resident("a", 4000), 0), on(resident("b", 4000), 1), max_evictions=1)

    decision = ask(at)

    assert victims(decision) == ["both"]
    assert decision.evictions[0].expected_mib == 18000


def test_lru_prefers_two_old_ones_to_a_recent_one_on_both() -> None:
    both = on(resident("both", 8000, used_at=9, device_count=2), 0, 1)
    at = host(wide("big", 15000), both, on(resident("a", 8000), 0), on(resident("b", 8000), 1))

    assert sorted(victims(ask(at))) == ["a", "b"]


def test_nobody_is_evicted_on_one_device_while_the_other_is_in_use() -> None:
    leased = on(resident("leased", 8000, leases=1), 1)
    decision = ask(host(wide("big", 15900), on(resident("a", 8000), 0), leased))

    assert (decision.verdict, decision.evictions, decision.devices) == (Verdict.WAIT, (), (0, 1))
    assert "leased in use on devices 0, 1" in decision.message


def test_nobody_is_evicted_on_one_device_when_the_other_can_never_be_freed() -> None:
    pinned = on(resident("pinned", 8000, pinned=True), 1)
    decision = ask(host(wide("big", 20000), on(resident("a", 8000), 0), pinned))

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InsufficientVram)
    assert "on device 1" in decision.message
    assert "pinned" in decision.message


def test_a_third_device_is_taken_instead_of_one_that_is_in_use() -> None:
    leased = on(resident("leased", 8000, leases=1), 1)

    assert ask(host(wide("big", 20000), leased, devices=3)).place == (0, 2)


def test_one_taken_slot_of_two_is_waited_for() -> None:
    small = on(resident("small", 100, leases=1), 1)
    decision = ask(host(wide("big", 20000), small, slots=1))

    assert (decision.verdict, decision.message) == (Verdict.WAIT, "device 1 is leased (small)")


def test_a_job_on_one_of_two_devices_is_waited_for() -> None:
    at = host(wide("big", 20000), absent("other", 100), jobs={1: Job((1,), "other")})

    assert ask(at).message == "loading other on device 1"


def test_inside_its_own_job_all_of_its_devices_are_free() -> None:
    job = Job((0, 1), "big", beside=(2,))
    at = host(wide("big", 20000), devices=3, jobs={0: job, 1: job, 2: job})

    assert decide_inside(at, Requirement("big"), (0, 1)).verdict is Verdict.GRANT
    assert ask(at).verdict is Verdict.WAIT


def test_too_few_devices_are_said_to_be() -> None:
    decision = ask(host(wide("big", 100, count=3)))

    assert (decision.error, decision.message) == (
        DeviceUnavailable,
        "big needs 3 devices at once, and there are 2",
    )


@pytest.mark.parametrize(("wanted", "place"), [((2,), (0, 2)), ((1, 2), (1, 2)), ((), (0, 1))])
def test_the_device_asked_for_is_among_those_taken(wanted: Devices, place: Devices) -> None:
    assert ask(host(wide("big", 100), devices=3), devices=wanted).place == place


def test_configured_devices_are_the_only_ones_taken() -> None:
    assert ask(host(wide("big", 100, devices=("3", "GPU-1")), devices=4)).place == (1, 3)
    three = host(wide("big", 100, devices=("3", "GPU-1", "0")), on(resident("a", 8000), 0), devices=4)
    assert ask(three).place == (1, 3), "two of three: those with most free"


def test_a_configured_device_that_is_not_there_is_named_among_several() -> None:
    decision = ask(host(wide("big", 100, devices=("0", "GPU-9"))))

    assert (decision.error, decision.message) == (DeviceUnavailable, "device GPU-9, configured for big, is not there")


def test_of_very_many_devices_good_ones_are_found() -> None:
    busy = [on(resident(f"r{index}", 20000, leases=1), index) for index in range(0, 24, 2)]

    assert ask(host(wide("big", 20000, count=6), *busy, devices=24)).place == (1, 3, 5, 7, 9, 11)


def test_a_resident_on_two_devices_is_lent_on_both_or_waited_for() -> None:
    there = on(resident("big", 8000, device_count=2), 0, 1)

    assert ask(host(there)).resident
    assert ask(host(there)).place == (0, 1)
    blocked = ask(host(there, on(resident("a", 100, leases=1), 1), slots=1))
    assert (blocked.verdict, blocked.message) == (Verdict.WAIT, "device 1 is leased (a)")


def test_who_is_on_a_device_where_something_is_loaded_is_not_evicted_beside_it() -> None:
    """Its memory would become free on that device too, where a newcomer measures what is free."""
    both = on(resident("both", 20000, device_count=2), 0, 1)
    at = host(absent("new", 20000, devices=("0",)), both, absent("other", 100), jobs={1: Job((1,), "other")})

    decision = decide(at, Requirement("new"))

    assert (decision.verdict, decision.evictions) == (Verdict.WAIT, ())
    assert decide(replace(at, jobs={}), Requirement("new")).beside == (1,)


def test_adaptive_takes_the_device_whose_victim_is_worth_least() -> None:
    def worth(name: str, load_sec: float, mib: int) -> ConsumerState:
        return replace(resident(name, mib), times=Learned().observe_load(load_sec, Start.PARKED))

    dear, cheap = on(worth("dear", 60.0, 14000), 0), on(worth("cheap", 1.0, 16000), 1)
    at = host(absent("new", 12000), dear, cheap)

    assert ask(at, "new").place == (0,), "lru: both lose one, the first has more free"
    assert ask(replace(at, settings=SchedulerSettings(policy=Policy.ADAPTIVE)), "new").place == (1,)


def test_a_fit_is_taken_before_a_cheap_eviction() -> None:
    at = host(absent("new", 12000), on(resident("a", 14000), 0), on(resident("b", 11000, leases=1), 1))
    adaptive = SchedulerSettings(policy=Policy.ADAPTIVE, concurrent_leases=0)

    assert ask(replace(at, settings=adaptive), "new").place == (1,)


def test_who_waits_for_two_devices_is_not_overtaken_on_either() -> None:
    at = host(wide("big", 20000), absent("a", 100), on(resident("leased", 8000, leases=1), 1), slots=1)
    standings = [QueueEntry(1, Requirement("big")), QueueEntry(2, Requirement("a"))]
    walk = QueuePass(standings)
    first = walk.rule(at, standings[0], ask(at))
    walk.stays(standings[0], first.decision.devices)

    second = walk.rule(at, standings[1], ask(at, "a"))

    assert (second.decision.verdict, second.decision.message) == (Verdict.WAIT, "1 request ahead of it")


def test_devices_are_written_with_commas() -> None:
    assert [devices_text(one) for one in ((), (0,), (3, 12))] == ["", "0", "3,12"]
    assert [devices_of(one) for one in ("", "0", "12,3,3", "x", "1,²")] == [(), (0,), (3, 12), (), (1,)]


def test_what_is_promised_on_two_devices_is_promised_on_each() -> None:
    lazy = replace(wide("lazy", 20000), residency=Residency.RESIDENT, devices=(0, 1), leases=1, claimed_at=1.0)
    unseen = host(lazy, absent("a", 8000, devices=("1",)))
    nothing = {at: replace(one, used_mib=0, free_mib=TOTAL_MIB, processes=()) for at, one in unseen.devices.items()}

    decision = decide(replace(unseen, devices=nothing), Requirement("a"))

    assert (decision.verdict, decision.message) == (Verdict.WAIT, "19.5 GiB of device 1 are promised to lazy")


def test_memory_is_free_when_every_device_shows_it() -> None:
    both = on(resident("both", 8000, device_count=2), 0, 1)
    before, after = host(both).devices, host(replace(both, residency=Residency.UNLOADED)).devices
    settling = MultiDeviceEvictionCheck(
        both.spec, {at: EvictionCheck(both.spec, before[at], 8000, 8000) for at in (0, 1)}
    )

    assert (settling.expected_mib, settling.freed_mib(before)) == (16000, 0)
    half = {0: after[0], 1: before[1]}
    assert (settling.freed_mib(half), settling.settled(half), settling.gone_by_own_figure(half)) == (8000, False, False)
    assert (settling.freed_mib(after), settling.settled(after), settling.gone_by_own_figure(after)) == (
        16000,
        True,
        True,
    )


def test_a_device_that_could_not_be_read_beforehand_is_not_waited_for() -> None:
    both = on(resident("both", 8000, device_count=2), 0, 1)
    before, after = host(both).devices, host(replace(both, residency=Residency.UNLOADED)).devices
    blind = replace(before[1], used_mib=None, free_mib=None, processes=(), attributed=False)
    parts = {0: EvictionCheck(both.spec, before[0], 8000, 8000), 1: EvictionCheck(both.spec, blind, None, 8000)}
    settling = MultiDeviceEvictionCheck(both.spec, parts)

    assert (settling.is_known, settling.can_be_measured) == (False, True)
    assert settling.settled({0: after[0], 1: blind})
    assert not MultiDeviceEvictionCheck(both.spec, {1: parts[1]}).can_be_measured
