"""Properties of every plan on hosts of one to six devices, with consumers on one to all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain import budget, cheapest_set_multi, victims
from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.device import Devices, ProcessUse, Sample
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident

NAMES = "abcdefgh"


@st.composite
def states(draw: st.DrawFn, devices: int) -> ConsumerState:
    count = draw(st.integers(1, devices))
    kind = draw(st.sampled_from(["absent", "resident", "resident", "leased", "loading"]))
    name, mib = draw(st.sampled_from(NAMES)), draw(st.integers(1, 12000))
    if kind == "absent":
        return absent(name, mib, device_count=count)
    place = tuple(sorted(draw(st.permutations(range(devices)))[:count]))
    state = resident(name, mib, used_at=draw(st.integers(0, 5)), leases=kind == "leased", device_count=count)
    state = replace(state, devices=place, pinned=draw(st.integers(0, 9)) == 0)
    loading = {"residency": Residency.LOADING, "claimed_at": 1.0, "footprint_seen": False}
    return replace(state, **loading) if kind == "loading" else state  # type: ignore[arg-type]


@st.composite
def hosts(draw: st.DrawFn) -> View:
    sizes = draw(st.lists(st.sampled_from([8192, 16384, 24564]), min_size=1, max_size=6))
    drawn = draw(st.lists(states(len(sizes)), max_size=7, unique_by=lambda one: one.name))
    target = absent("target", draw(st.integers(1, 24564)), device_count=draw(st.integers(1, len(sizes))))
    consumers = {one.name: one for one in _that_fit([*drawn, target], sizes)}
    held = {one.name: draw(st.integers(0, one.footprint_mib)) for one in drawn}
    samples = {at: _sample(draw, at, size, list(consumers.values()), held) for at, size in enumerate(sizes)}
    job = {draw(st.integers(0, len(sizes) - 1)): Job((0,), "elsewhere")} if draw(st.integers(0, 4)) == 0 else {}
    leases = {at: sum(one.leases for one in consumers.values() if at in one.devices) for at in samples}
    chosen = SchedulerSettings(
        concurrent_leases=draw(st.sampled_from([0, 1, 2])), policy=draw(st.sampled_from(list(Policy)))
    )
    return View(chosen, samples, consumers, leases, {at: replace(one, devices=(at,)) for at, one in job.items()})


def _that_fit(drawn: list[ConsumerState], sizes: list[int]) -> list[ConsumerState]:
    """The consumers whose reserved footprints fit the devices together."""
    left, fitting = list(sizes), []
    for one in drawn:
        if one.claimed and any(one.footprint_mib > left[at] for at in one.devices):
            continue
        for at in one.devices if one.claimed else ():
            left[at] -= one.footprint_mib
        fitting.append(one)
    return fitting


def _sample(draw: st.DrawFn, at: int, size: int, consumers: list[ConsumerState], held: dict[str, int]) -> Sample:
    left, processes = size, []
    for number, one in enumerate(consumers):
        if at in one.devices and one.residency in (Residency.RESIDENT, Residency.LOADING):
            mib = min(left, one.footprint_mib if one.footprint_seen else held[one.name])
            processes.append(ProcessUse(100 + number, mib, one.name, "", one.name))
            left -= mib
    names = frozenset(one.name for one in consumers)
    known = draw(st.integers(0, 9)) > 0
    used_mib, free_mib = (size - left, left) if known else (None, None)
    shown = tuple(processes) if known else ()
    return Sample(
        at, f"GPU-{at}", "GPU", "test", size, used_mib, free_mib, shown, known, names if known else frozenset()
    )


def loads(host: View) -> Decision | None:
    """The decision about the target where it is to be loaded."""
    if "target" not in host.consumers:
        return None
    decision = decide(host, Requirement("target"))
    return decision if decision.verdict is Verdict.GRANT and decision.load else None


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_a_plan_frees_enough_on_every_device_it_takes(host: View) -> None:
    decision = loads(host)
    if decision is None:
        return
    target = host.consumers["target"]
    assert len(set(decision.place)) == target.spec.device_count
    assert list(decision.place) == sorted(decision.place)
    gone = [host.consumers[one.consumer] for one in decision.evictions]
    for device in decision.place:
        freed = victims.freeable_by_consumer(host, device, [one for one in gone if one.may_be_on(device)])
        free_mib = budget.free_mib(host, device, "target")
        assert free_mib is None or free_mib + sum(freed.values()) >= budget.need_mib(host, device, "target")


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_no_victim_is_superfluous_exempt_or_on_a_device_with_a_job(host: View) -> None:
    decision = decide(host, Requirement("target"))
    if decision.verdict is not Verdict.GRANT:
        assert decision.evictions == ()
        return
    gone = [host.consumers[one.consumer] for one in decision.evictions]
    assert len(gone) <= host.settings.max_evictions
    for one in gone:
        assert not any([one.leases, one.pinned, one.claimed])
        assert not any(device in host.jobs for device in one.devices)
        assert not set(one.devices).isdisjoint(decision.place)
        assert set(one.devices) <= {*decision.place, *decision.extra_devices}
        others = [other for other in gone if other is not one]
        assert not _suffices(host, decision.place, others), f"{one.name} is not needed"


def _suffices(host: View, place: Devices, gone: list[ConsumerState]) -> bool:
    for device in place:
        free_mib = budget.free_mib(host, device, "target")
        if free_mib is None:
            continue
        freed = victims.freeable_by_consumer(host, device, [one for one in gone if one.may_be_on(device)])
        if free_mib + sum(freed.values()) < budget.need_mib(host, device, "target"):
            return False
    return True


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_reserved_footprints_never_exceed_any_device(host: View) -> None:
    for name, state in host.consumers.items():
        decision = decide(host, Requirement(name))
        if decision.verdict is not Verdict.GRANT:
            continue
        for device in decision.place:
            assert budget.committed_mib(host, device, excluding=name) + state.footprint_mib <= (
                host.devices[device].total_mib or 0
            )
            if host.settings.concurrent_leases:
                assert host.slots_taken(device) < host.settings.concurrent_leases


@settings(max_examples=400, deadline=None)
@given(hosts())
def test_a_load_is_refused_only_where_no_set_of_devices_suffices(host: View) -> None:
    """Where the best decision is a refusal, no place would do even without any consumer that is not pinned."""
    if "target" not in host.consumers or decide(host, Requirement("target")).verdict is not Verdict.REFUSE:
        return
    target = host.consumers["target"]
    for place in combinations(host.devices, target.spec.device_count):
        totals = [host.devices[device].total_mib or 0 for device in place]
        pinned = [one for one in host.consumers.values() if one.pinned and not set(one.devices).isdisjoint(place)]
        tight = min(totals) < target.footprint_mib + host.settings.cushion_mib
        several = _needs_too_many(host, place)
        assert tight or pinned or several, f"{place} would do"


def _needs_too_many(host: View, place: Devices) -> bool:
    """Whether more evictions than allowed would be needed, or a device has no reading."""
    there = [one for one in host.consumers.values() if not set(one.devices).isdisjoint(place)]
    return len(there) > host.settings.max_evictions or any(not host.devices[device].is_measured for device in place)


wide_items = st.lists(
    st.tuples(st.integers(1, 9), st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5))), max_size=8
)


@settings(max_examples=400, deadline=None)
@given(wide_items, st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), st.integers(0, 5))
def test_the_cheapest_set_for_several_devices_is_the_cheapest_there_is(
    drawn: list[tuple[int, cheapest_set_multi.Mib]], need_mib: cheapest_set_multi.Mib, limit: int
) -> None:
    items = [
        cheapest_set_multi.MultiDeviceItem(at, float(value), mib) for at, (value, mib) in enumerate(drawn) if any(mib)
    ]
    all_sets = [chosen for size in range(limit + 1) for chosen in combinations(items, size)]
    enough = [sum(one.cost for one in chosen) for chosen in all_sets if cheapest_set_multi.suffice(chosen, need_mib)]

    found = cheapest_set_multi.cheapest_on_all(items, need_mib, limit)

    if found is None:
        assert not enough
        return
    assert sum(float(drawn[at][0]) for at in found) == min(enough)
    assert cheapest_set_multi.suffice([one for one in items if one.index in found], need_mib)
