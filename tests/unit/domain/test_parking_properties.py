"""Properties of every plan with parking: it frees enough VRAM, and host RAM is never reserved twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain import budget, host_ram
from gpumand.domain.consumer import EvictionMethod, Policy, SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident

HTTP, UNIT_STOP = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP
RESERVE_MIB = SchedulerSettings().host_ram_reserve_mib


@st.composite
def states(draw: st.DrawFn, devices: int) -> ConsumerState:
    count, mib = draw(st.integers(1, devices)), draw(st.integers(3000, 9000))
    more: dict[str, Any] = {
        "device_count": count,
        "parks": draw(st.integers(0, 3)) > 0,
        "residual_mib": draw(st.sampled_from([0, 500, 1500, 2500])),
        "parked_host_mib": draw(st.none() | st.integers(3000, 12000)),
    }
    if draw(st.integers(0, 3)) == 3:
        more |= {"unit": "", "evict": (HTTP,)}
    leases = int(draw(st.integers(0, 7)) == 7)
    state = resident(draw(st.sampled_from("abcdefgh")), mib, used_at=draw(st.integers(0, 5)), leases=leases, **more)
    place = tuple(sorted(draw(st.permutations(range(devices)))[:count]))
    state = replace(state, devices=place, pinned=draw(st.integers(0, 9)) == 9)
    if state.spec.parks and not leases and draw(st.booleans()):
        return replace(state, residency=Residency.PARKED, footprint_seen=False)
    return state


@st.composite
def hosts(draw: st.DrawFn) -> View:
    sizes = draw(st.lists(st.sampled_from([16384, 24564]), min_size=1, max_size=3))
    drawn = draw(st.lists(states(len(sizes)), min_size=2, max_size=7, unique_by=lambda one: one.name))
    mib = min(sizes) - draw(st.sampled_from([256, 800, 2000, 4000, 9000]))
    target = absent("target", mib, device_count=draw(st.integers(1, len(sizes))))
    left, there = list(sizes), [target]
    for one in drawn:
        mib = one.spec.residual_mib if one.residency is Residency.PARKED else one.footprint_mib
        if all(mib <= left[at] for at in one.devices):
            there.append(one)
            for at in one.devices:
                left[at] -= mib
    consumers = {one.name: one for one in there}
    samples = {at: _sample(at, size, there) for at, size in enumerate(sizes)}
    going = [one.name for one in there[1:] if one.spec.parks and one.residency is Residency.RESIDENT and not one.leases]
    jobs = {}
    if going and draw(st.integers(0, 3)) == 3:
        name = draw(st.sampled_from(going))
        consumers[name] = replace(consumers[name], residency=Residency.UNLOADING)
        place = consumers[name].devices
        jobs = dict.fromkeys(place, Job(place, "elsewhere", evicting=(name,), parking=(name,)))
    leases = {at: sum(one.leases for one in consumers.values() if at in one.devices) for at in samples}
    chosen = SchedulerSettings(
        concurrent_leases=0,
        policy=draw(st.sampled_from(list(Policy))),
        max_evictions=draw(st.sampled_from([2, 5, 9])),
    )
    ram_mib = draw(st.sampled_from([None, 0, 4000, 8000, 12000, 20000, 60000]))
    ram_mib = None if ram_mib is None else ram_mib + RESERVE_MIB
    return View(chosen, samples, consumers, leases, jobs, host_available_mib=ram_mib)


def _sample(at: int, size: int, there: list[ConsumerState]) -> Sample:
    held = {
        one.name: one.spec.residual_mib if one.residency is Residency.PARKED else one.footprint_mib
        for one in there
        if at in one.devices
    }
    processes = tuple(ProcessUse(100 + at, mib, name, "", name) for at, (name, mib) in enumerate(held.items()) if mib)
    used_mib, names = sum(held.values()), frozenset(one.name for one in there)
    return Sample(
        at, f"GPU-{at}", "GPU", "test", size, used_mib, size - used_mib, processes, attributed=True, attributable=names
    )


def plan(host: View) -> Decision | None:
    decision = decide(host, Requirement("target"))
    return decision if decision.verdict is Verdict.GRANT and decision.load else None


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_a_plan_frees_enough_by_its_methods(host: View) -> None:
    decision = plan(host)
    if decision is None:
        return
    for device in decision.place:
        free_mib = budget.free_mib(host, device, "target") or 0
        for one in decision.evictions:
            state = host.consumers[one.consumer]
            if state.may_be_on(device):
                method = EvictionMethod(one.method)
                free_mib += budget.freeable_mib(host.devices[device], state, None, method)
        assert free_mib >= budget.need_mib(host, device, "target")


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_host_ram_is_enough_for_each_parking_of_a_plan(host: View) -> None:
    decision, left_mib = plan(host), host_ram.room_mib(host)
    for one in () if decision is None else decision.evictions:
        state = host.consumers[one.consumer]
        parks = state.spec.parks and one.method == HTTP
        assert one.parks == parks
        if state.residency is Residency.PARKED:
            assert one.method == UNIT_STOP
            left_mib = None if left_mib is None else left_mib + state.host_mib
        elif parks and left_mib is None:
            assert not state.spec.unit, "an unknown amount is not relied on"
        elif parks:
            left_mib = (left_mib or 0) - state.host_mib
            assert left_mib >= 0


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_no_victim_is_leased_pinned_repeated_or_in_another_job(host: View) -> None:
    decision = decide(host, Requirement("target"))
    gone = [host.consumers[one.consumer] for one in decision.evictions]
    assert len({one.name for one in gone}) == len(gone) <= host.settings.max_evictions
    assert decision.verdict is Verdict.GRANT or not gone
    for one in gone:
        assert not any([one.leases, one.pinned, one.claimed, set(one.devices) & host.jobs.keys()])
        assert set(one.devices) <= {*decision.place, *decision.extra_devices}


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_a_request_is_refused_only_where_stopping_every_consumer_would_not_suffice(host: View) -> None:
    decision = decide(host, Requirement("target"))
    target = host.consumers["target"]
    if decision.verdict is not Verdict.REFUSE or target.spec.device_count < len(host.devices):
        return
    may_be_stopped = [one for one in host.consumers.values() if not one.pinned and one.spec.unit and one is not target]
    many = len(may_be_stopped) > host.settings.max_evictions
    tight = any(_left_mib(host, device, may_be_stopped) < 0 for device in host.devices)
    assert many or tight


def _left_mib(host: View, device: int, gone: list[ConsumerState]) -> int:
    freed_mib = sum(host.devices[device].held_by(one.name) or 0 for one in gone)
    return (host.devices[device].free_mib or 0) + freed_mib - budget.need_mib(host, device, "target")
