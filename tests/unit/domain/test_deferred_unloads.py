"""A consumer whose unload waits for its clients' requests is passed over wherever another plan suffices."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpumand.domain import budget, victims
from gpumand.domain.consumer import BusyAfter, BusyRoute, Policy
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.deferred_unloads import counted_as_busy, other_plan_suffices
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident, view

NOW = 1000.0


def deferring(state: ConsumerState, since: float = NOW) -> ConsumerState:
    return counted_as_busy(state, since)


def within_job(*states: ConsumerState, evicting: str, **more: object) -> View:
    """A host on which a job for "llm" evicts a consumer, whose unload has freed nothing so far."""
    host = view(*states, jobs={0: Job((0,), "llm", (evicting,), takes_slot=True)}, **more)  # type: ignore[arg-type]
    unloading = replace(host.consumers[evicting], residency=Residency.UNLOADING)
    claimed = replace(host.consumers["llm"], claimed_at=NOW, devices=(0,))
    return replace(host, consumers={**host.consumers, evicting: unloading, "llm": claimed})


def test_consumer_that_puts_its_unload_off_is_passed_over_for_another_victim() -> None:
    old, recent = resident("old", 9000, used_at=1), resident("recent", 9000, used_at=2)

    before = decide(view(old, recent, absent("llm", 9000)), Requirement("llm"))
    after = decide(view(deferring(old), recent, absent("llm", 9000), held={"old": 9000}), Requirement("llm"))

    assert [one.consumer for one in before.evictions] == ["old"]
    assert [one.consumer for one in after.evictions] == ["recent"]
    assert [(one.consumer, one.why) for one in after.spared] == [("old", "busy (1 client connection)")]


def test_it_is_waited_for_where_no_other_victim_suffices_until_its_grace_period_is_over() -> None:
    def ask(since: float) -> Decision:
        busy = deferring(resident("old", 14000, used_at=1), since)
        return decide(view(busy, absent("llm", 14000), held={"old": 14000}), Requirement("llm"))

    waiting, over = ask(NOW - 20), ask(NOW - 60)

    assert (waiting.verdict, waiting.busy) == (Verdict.WAIT, ("old",))
    assert waiting.message == "old is busy (1 client connection) and will be evicted in 40 s if still busy"
    assert [one.consumer for one in over.evictions] == ["old"]


def test_connections_without_an_unload_that_was_put_off_do_not_count_as_work() -> None:
    connected = replace(resident("old", 14000), jobs=3)

    assert [one.consumer for one in decide(view(connected, absent("llm", 14000)), Requirement("llm")).evictions]


@pytest.mark.parametrize("after", list(BusyAfter))
def test_consumer_with_a_busy_check_of_its_own_follows_its_configuration(after: BusyAfter) -> None:
    checked = resident("old", 14000, busy=BusyRoute("/queue", ("/running",)), busy_after=after)
    decision = decide(view(deferring(checked, NOW - 60), absent("llm", 14000), held={"old": 14000}), Requirement("llm"))

    assert (
        decision.verdict
        is {
            BusyAfter.WAIT: Verdict.WAIT,
            BusyAfter.EVICT: Verdict.GRANT,
            BusyAfter.REFUSE: Verdict.REFUSE,
        }[after]
    )


@pytest.mark.parametrize(("leases", "suffices"), [(0, True), (1, False)])
def test_other_plan_is_looked_for_within_the_job_on_its_device(leases: int, suffices: bool) -> None:
    old, recent = resident("old", 9000, used_at=1), resident("recent", 9000, used_at=2, leases=leases)
    host = within_job(old, recent, absent("llm", 9000), evicting="old", held={"old": 9000})

    assert other_plan_suffices(host, Requirement("llm"), (0,), "old") is suffices


@pytest.mark.parametrize("is_allowed", [True, False])
def test_other_plan_may_be_on_another_device(is_allowed: bool) -> None:
    old = resident("old", 24000, used_at=1)
    devices = () if is_allowed else ("0",)
    host = within_job(old, absent("llm", 9000, devices=devices), evicting="old", held={"old": 24000})
    other = replace(host.devices[0], index=1, uuid="GPU-1", processes=(), used_mib=0, free_mib=24564)
    host = replace(host, devices={**host.devices, 1: other})

    assert other_plan_suffices(host, Requirement("llm"), (0,), "old") is is_allowed


def test_victim_without_a_grace_period_is_not_left_for_a_plan_that_evicts_it_again() -> None:
    old = resident("old", 14000, used_at=1, busy_grace_sec=0.0)
    host = within_job(old, absent("llm", 14000), evicting="old", held={"old": 14000})

    assert not other_plan_suffices(host, Requirement("llm"), (0,), "old")


@st.composite
def full_hosts(draw: st.DrawFn) -> View:
    """Hosts whose device is taken by consumers, so that nearly every request needs evictions."""
    count, left_mib, states = draw(st.integers(2, 7)), 24564, list[ConsumerState]()
    for name in "abcdefg"[:count]:
        mib = draw(st.integers(500, max(501, left_mib * 2 // 3)))
        kind = draw(st.sampled_from(["", "", "", "leased", "pinned"]))
        used_at = draw(st.integers(0, 5))
        if mib <= left_mib:
            states.append(resident(name, mib, used_at=used_at, leases=kind == "leased", pinned=kind == "pinned"))
            left_mib -= mib
    target = absent("target", draw(st.integers(left_mib + 1, 20000)) if left_mib < 20000 else 20000)
    policy = draw(st.sampled_from(Policy))
    return view(*states, target, max_evictions=draw(st.integers(1, 5)), policy=policy, concurrent_leases=0)


def _suffices(host: View, names: list[str]) -> bool:
    """Whether evicting these consumers frees enough for the target, by the same account of memory as a plan."""
    freed = victims.freeable_by_consumer(host, 0, [host.consumers[name] for name in names])
    free_mib = budget.free_mib(host, 0, "target")
    return free_mib is not None and free_mib + sum(freed.values()) >= budget.need_mib(host, 0, "target")


@settings(max_examples=400)
@given(full_hosts(), st.data())
def test_passing_a_busy_consumer_over_is_never_worse_than_waiting_for_it(host: View, data: st.DataObject) -> None:
    before = decide(host, Requirement("target"))
    assume(before.verdict is Verdict.GRANT and before.evictions)
    name = data.draw(st.sampled_from(sorted(one.consumer for one in before.evictions)))
    busy = {**host.consumers, name: deferring(host.consumers[name], host.now)}

    after = decide(replace(host, consumers=busy), Requirement("target"))

    assert after.verdict in (Verdict.GRANT, Verdict.WAIT), "it can be evicted later, so the request is never refused"
    victims_now = [one.consumer for one in after.evictions]
    assert name not in victims_now
    if after.verdict is Verdict.GRANT:
        assert _suffices(host, victims_now)
    else:
        assert name in after.busy
        left = [one.name for one in victims.candidates(host, (0,), host.consumers["target"]) if one.name != name]
        limit = host.settings.max_evictions
        assert not _suffices(host, left) or len(left) > limit, "it is waited for although the others free enough"


@settings(max_examples=200)
@given(full_hosts(), st.data())
def test_request_that_does_not_need_the_busy_consumer_is_planned_without_it(host: View, data: st.DataObject) -> None:
    before = decide(host, Requirement("target"))
    needed = {one.consumer for one in before.evictions}
    others = [one.name for one in host.consumers.values() if one.residency is Residency.RESIDENT and not one.leases]
    assume(before.verdict is Verdict.GRANT and before.load and set(others) - needed)
    name = data.draw(st.sampled_from(sorted(set(others) - needed)))
    state = replace(host.consumers[name], jobs=1, unload_deferred=True, blocking_since=host.now)

    after = decide(replace(host, consumers={**host.consumers, name: state}), Requirement("target"))

    assert after.verdict is Verdict.GRANT
    assert name not in [one.consumer for one in after.evictions]
    assert len(after.evictions) <= host.settings.max_evictions
