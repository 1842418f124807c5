"""A consumer that reports work is exempt from eviction for as long as its configuration says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumand.domain import busyness
from gpumand.domain.consumer import BusyAfter, BusyReport, BusyRoute, Policy
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import Busy, InsufficientVram
from gpumand.domain.planning import decide
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState

from .build import absent, resident, view

NOW = 1000.0
BUSY = BusyRoute("/queue", ("/running",))


def working(
    jobs: int | None = 2, needed_sec: float | None = None, after: BusyAfter = BusyAfter.WAIT, **more: Any
) -> ConsumerState:
    """A busy consumer of 13 GiB; ``needed_sec`` = for how many seconds a request has needed its VRAM."""
    state = resident("image", 13312, busy=BUSY, busy_after=after, busy_grace_sec=60.0, **more)
    return replace(state, jobs=jobs, blocking_since=None if needed_sec is None else NOW - needed_sec)


def ask(state: ConsumerState, mib: int = 14000, *others: ConsumerState) -> Decision:
    return decide(view(state, absent("llm", mib), *others, now=NOW, concurrent_leases=0), Requirement("llm"))


@pytest.mark.parametrize("needed_sec", [None, 0.0, 59.0, 60.0, 1e6])
def test_requests_wait_without_limit_for_a_busy_consumer_by_default(needed_sec: float | None) -> None:
    decision = ask(working(needed_sec=needed_sec))

    assert (decision.verdict, decision.error, decision.busy) == (Verdict.WAIT, Busy, ("image",))
    assert decision.message == "image is busy (2 jobs)"
    assert [(one.consumer, one.why) for one in decision.spared] == [("image", "busy (2 jobs)")]


@pytest.mark.parametrize("jobs", [0, None])
def test_a_consumer_that_is_idle_or_never_answered_can_be_evicted(jobs: int | None) -> None:
    decision = ask(working(jobs=jobs))

    assert [one.consumer for one in decision.evictions] == ["image"]
    assert decision.busy == ()


@pytest.mark.parametrize(
    ("needed_sec", "verdict", "message"),
    [
        (None, Verdict.WAIT, "image is busy (2 jobs) and will be evicted in 60 s if still busy"),
        (20.0, Verdict.WAIT, "image is busy (2 jobs) and will be evicted in 40 s if still busy"),
        (60.0, Verdict.GRANT, ""),
    ],
)
def test_a_busy_consumer_is_evicted_after_its_grace_with_busy_after_evict(
    needed_sec: float | None, verdict: Verdict, message: str
) -> None:
    decision = ask(working(needed_sec=needed_sec, after=BusyAfter.EVICT))

    assert decision.verdict is verdict
    assert not message or decision.message == message
    assert bool(decision.evictions) == (verdict is Verdict.GRANT)


@pytest.mark.parametrize("needed_sec", [None, 5.0])
def test_requests_are_refused_after_the_grace_with_busy_after_refuse(needed_sec: float | None) -> None:
    before = ask(working(needed_sec=needed_sec, after=BusyAfter.REFUSE))
    after = ask(working(needed_sec=60.0, after=BusyAfter.REFUSE))

    assert before.verdict is Verdict.WAIT
    assert "requests for its VRAM are refused in" in before.message
    assert (after.verdict, after.error) == (Verdict.REFUSE, Busy)
    assert after.message.startswith(
        "image is still busy (2 jobs) after its busy_grace_sec of 60 s; not enough VRAM for llm"
    )


@pytest.mark.parametrize(("after", "verdict"), [(BusyAfter.EVICT, Verdict.GRANT), (BusyAfter.REFUSE, Verdict.REFUSE)])
def test_a_grace_of_zero_ends_at_once(after: BusyAfter, verdict: Verdict) -> None:
    state = working(after=after)

    assert ask(replace(state, spec=replace(state.spec, busy_grace_sec=0.0))).verdict is verdict


def test_a_request_is_refused_where_the_busy_consumer_would_not_free_enough() -> None:
    decision = ask(working(), 24000, resident("kept", 4000, pinned=True))

    assert (decision.verdict, decision.error) == (Verdict.REFUSE, InsufficientVram)
    assert "13.0 GiB by image (busy (2 jobs))" in decision.message


def test_an_idle_consumer_is_evicted_instead_of_a_busy_one() -> None:
    decision = ask(working(), 8000, resident("idle", 8000))

    assert [one.consumer for one in decision.evictions] == ["idle"]


def test_a_wait_names_both_a_leased_and_a_busy_consumer() -> None:
    decision = ask(working(), 20000, resident("leased", 3000, leases=1))

    assert decision.message == "device 0 is leased to leased, image is busy (2 jobs)"
    assert decision.busy == ("image",)


def test_a_leased_and_busy_consumer_is_waited_for_because_of_its_lease() -> None:
    decision = ask(working(leases=1), 11000)

    assert (decision.message, decision.busy) == ("device 0 is leased to image", ())


def test_old_jobs_do_not_count_without_a_busy_route() -> None:
    state = working()

    assert ask(replace(state, spec=replace(state.spec, busy=None))).verdict is Verdict.GRANT


@pytest.mark.parametrize(
    ("before", "work", "age_sec", "jobs"),
    [
        (None, BusyReport(3), 0.0, 3),
        (3, BusyReport(0), 1.0, 0),
        (3, BusyReport(None), 60.0, 3),
        (3, BusyReport(None), 60.5, None),
        (3, BusyReport(None, refused=True), 1.0, 0),
        (0, BusyReport(None), 1.0, None),
        (None, BusyReport(None), 1.0, None),
    ],
)
def test_assumed_jobs_after_a_probe(before: int | None, work: BusyReport, age_sec: float, jobs: int | None) -> None:
    assert busyness.assumed_jobs(working(before), work, age_sec) == jobs


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
def test_a_busy_consumer_within_its_grace_is_never_a_victim(
    others: list[tuple[int, int | None, float, BusyAfter, float | None, bool]],
    mib: int,
    foreign_mib: int,
    policy: Policy,
) -> None:
    states = []
    for number, (held_mib, jobs, grace_sec, after, needed_sec, leased) in enumerate(others):
        more: dict[str, Any] = {"busy": BUSY, "busy_after": after, "busy_grace_sec": grace_sec}
        state = resident(f"c{number}", held_mib, leases=int(leased), **more)
        blocking_since = None if needed_sec is None else NOW - needed_sec
        states.append(replace(state, jobs=jobs, blocking_since=blocking_since))
    by_name = {state.name: state for state in states}
    looked_at = view(*states, absent("new", mib), foreign_mib=foreign_mib, now=NOW, concurrent_leases=0, policy=policy)

    decision = decide(looked_at, Requirement("new"))

    victims = [by_name[one.consumer] for one in decision.evictions]
    assert not [one.name for one in victims if busyness.busy_exemption(one, NOW) or one.leases]
    assert all(one.spec.busy_after is BusyAfter.EVICT for one in victims if one.jobs)
    waited_for = [by_name[name] for name in decision.busy]
    assert all(one.jobs and not busyness.is_busy_past_grace(one, NOW) for one in waited_for)
    assert not decision.busy or decision.verdict is Verdict.WAIT
