"""Who works by its own word is spared, for as long as its configuration says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain import busyness
from gpumand.domain.consumer import BusyAfter, BusyRoute, Policy, Work
from gpumand.domain.errors import Busy, InsufficientVram
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState

from .build import absent, resident, view

NOW = 1000.0
BUSY = BusyRoute("/queue", ("/running",))


def working(
    jobs: int | None = 2, needed_sec: float | None = None, after: BusyAfter = BusyAfter.WAIT, **more: Any
) -> ConsumerState:
    """A consumer of 13 GiB at work; ``needed_sec`` = for how long somebody has needed its room."""
    state = resident("image", 13312, busy=BUSY, busy_after=after, busy_grace_sec=60.0, **more)
    return replace(state, jobs=jobs, needed_since=None if needed_sec is None else NOW - needed_sec)


def ask(state: ConsumerState, mib: int = 14000, *others: ConsumerState) -> Decision:
    return decide(view(state, absent("llm", mib), *others, now=NOW, concurrent_leases=0), Requirement("llm"))


@pytest.mark.parametrize("needed_sec", [None, 0.0, 59.0, 60.0, 1e6])
def test_by_default_nobody_ends_its_work_however_long_it_takes(needed_sec: float | None) -> None:
    decision = ask(working(needed_sec=needed_sec))

    assert (decision.verdict, decision.error, decision.busy) == (Verdict.WAIT, Busy, ("image",))
    assert decision.message == "image is busy (2 jobs)"
    assert [(one.consumer, one.why) for one in decision.spared] == [("image", "busy (2 jobs)")]


@pytest.mark.parametrize("jobs", [0, None])
def test_one_that_is_idle_or_never_said_may_go(jobs: int | None) -> None:
    decision = ask(working(jobs=jobs))

    assert [one.consumer for one in decision.evictions] == ["image"]
    assert decision.busy == ()


@pytest.mark.parametrize(
    ("needed_sec", "verdict", "message"),
    [
        (None, Verdict.WAIT, "image is busy (2 jobs), evicted in 60 s if it still is"),
        (20.0, Verdict.WAIT, "image is busy (2 jobs), evicted in 40 s if it still is"),
        (60.0, Verdict.GRANT, ""),
    ],
)
def test_after_its_grace_it_is_evicted_where_that_is_configured(
    needed_sec: float | None, verdict: Verdict, message: str
) -> None:
    decision = ask(working(needed_sec=needed_sec, after=BusyAfter.EVICT))

    assert decision.verdict is verdict
    assert not message or decision.message == message
    assert bool(decision.evictions) == (verdict is Verdict.GRANT)


@pytest.mark.parametrize("needed_sec", [None, 5.0])
def test_after_its_grace_who_needs_its_room_is_refused_where_that_is_configured(needed_sec: float | None) -> None:
    before = ask(working(needed_sec=needed_sec, after=BusyAfter.REFUSE))
    after = ask(working(needed_sec=60.0, after=BusyAfter.REFUSE))

    assert before.verdict is Verdict.WAIT
    assert "not waited for any longer in" in before.message
    assert (after.verdict, after.error) == (Verdict.REFUSE, Busy)
    assert after.message.startswith("image is busy (2 jobs) for longer than it is waited for; llm needs")


@pytest.mark.parametrize(("after", "verdict"), [(BusyAfter.EVICT, Verdict.GRANT), (BusyAfter.REFUSE, Verdict.REFUSE)])
def test_without_grace_it_comes_at_once(after: BusyAfter, verdict: Verdict) -> None:
    state = working(after=after)

    assert ask(replace(state, spec=replace(state.spec, busy_grace_sec=0.0))).verdict is verdict


def test_its_work_is_not_worth_waiting_for_where_its_room_would_not_do() -> None:
    decision = ask(working(), 24000, resident("kept", 4000, pinned=True))

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InsufficientVram)
    assert "13.0 GiB by image (busy (2 jobs))" in decision.message


def test_another_goes_where_that_is_enough() -> None:
    decision = ask(working(), 8000, resident("idle", 8000))

    assert [one.consumer for one in decision.evictions] == ["idle"]


def test_a_lease_in_the_way_is_named_beside_its_work() -> None:
    decision = ask(working(), 20000, resident("leased", 3000, leases=1))

    assert decision.message == "leased in use on device 0, image is busy (2 jobs)"
    assert decision.busy == ("image",)


def test_one_that_is_leased_and_busy_is_waited_for_by_its_lease() -> None:
    decision = ask(working(leases=1), 11000)

    assert (decision.message, decision.busy) == ("image in use on device 0", ())


def test_work_of_one_that_is_not_asked_any_more_says_nothing() -> None:
    state = working()

    assert ask(replace(state, spec=replace(state.spec, busy=None))).verdict is Verdict.GRANT


@pytest.mark.parametrize(
    ("before", "work", "heard_sec", "jobs"),
    [
        (None, Work(3), 0.0, 3),
        (3, Work(0), 1.0, 0),
        (3, Work(None), 60.0, 3),
        (3, Work(None), 60.5, None),
        (3, Work(None, gone=True), 1.0, 0),
        (0, Work(None), 1.0, None),
        (None, Work(None), 1.0, None),
    ],
)
def test_what_is_believed_after_an_answer_or_none(
    before: int | None, work: Work, heard_sec: float, jobs: int | None
) -> None:
    assert busyness.believed(working(before), work, heard_sec) == jobs


consumers = st.builds(
    lambda mib, jobs, grace_sec, after, needed_sec, leased: (mib, jobs, grace_sec, after, needed_sec, leased),
    st.integers(500, 4000),
    st.none() | st.integers(0, 3),
    st.sampled_from([0.0, 60.0]),
    st.sampled_from(list(BusyAfter)),
    st.none() | st.floats(0, 200),
    st.booleans(),
)


@given(st.lists(consumers, max_size=6), st.integers(500, 26000), st.integers(0, 500), st.sampled_from(list(Policy)))
def test_whoever_works_within_its_grace_is_never_a_victim(
    others: list[tuple[int, int | None, float, BusyAfter, float | None, bool]],
    mib: int,
    foreign_mib: int,
    policy: Policy,
) -> None:
    states = []
    for number, (held_mib, jobs, grace_sec, after, needed_sec, leased) in enumerate(others):
        more: dict[str, Any] = {"busy": BUSY, "busy_after": after, "busy_grace_sec": grace_sec}
        state = resident(f"c{number}", held_mib, leases=int(leased), **more)
        needed_since = None if needed_sec is None else NOW - needed_sec
        states.append(replace(state, jobs=jobs, needed_since=needed_since))
    by_name = {state.name: state for state in states}
    looked_at = view(*states, absent("new", mib), foreign_mib=foreign_mib, now=NOW, concurrent_leases=0, policy=policy)

    decision = decide(looked_at, Requirement("new"))

    victims = [by_name[one.consumer] for one in decision.evictions]
    assert not [one.name for one in victims if busyness.why_spared(one, NOW) or one.leases]
    assert all(one.spec.busy_after is BusyAfter.EVICT for one in victims if one.jobs)
    waited_for = [by_name[name] for name in decision.busy]
    assert all(one.jobs and not busyness.is_given_up(one, NOW) for one in waited_for)
    assert not decision.busy or decision.verdict is Verdict.WAIT
