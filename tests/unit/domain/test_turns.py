"""Turns of consumers that were just loaded, and leases that are granted again ahead of the queue."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain.consumer import Policy
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import QueueEntry
from gpumand.domain.queue_policy import queue_pass_for
from gpumand.domain.request import Verdict
from gpumand.domain.reuse_prediction import IdleTimeHistogram
from gpumand.domain.turns import NO_TURN, begin_turn, latest_wait
from gpumand.domain.view import View
from tests.unit.domain.build import absent, resident, view

NOW = 1000.0
NO_HISTORY = IdleTimeHistogram()


def idle_times(*seconds: float) -> IdleTimeHistogram:
    made = NO_HISTORY
    for one in seconds:
        made = made.with_observation(one)
    return made


def pair(*, ends_at: float = NOW + 9, idle_since: float = NOW, pause_sec: float = 2.0, **settings: Any) -> View:
    """Consumer a is resident and has a turn; b would fit only in its place."""
    turn = replace(begin_turn(NOW, 3.0, None, NO_HISTORY), ends_at=ends_at, pause_sec=pause_sec)
    loaded = replace(resident("a", 14000), turn=turn, idle_since=idle_since)
    return view(loaded, absent("b", 14000), now=NOW, **settings)


# -- the length of a turn ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load_sec", "configured_sec", "seconds", "pause_sec"),
    [
        (1.0, None, 2.0, 1.0),
        (4.0, None, 8.0, 2.0),
        (60.0, None, 30.0, 2.0),
        (4.0, 90.0, 90.0, 2.0),
        (9.0, 1.5, 1.5, 0.75),
    ],
)
def test_turn_is_two_loads_long_unless_configured(
    load_sec: float, configured_sec: float | None, seconds: float, pause_sec: float
) -> None:
    turn = begin_turn(NOW, load_sec, configured_sec, NO_HISTORY)

    assert (turn.ends_at - NOW, turn.pause_sec) == pytest.approx((seconds, pause_sec))


def test_no_turn_begins_where_turns_are_off() -> None:
    assert begin_turn(NOW, 5.0, 0.0, NO_HISTORY) == NO_TURN


def test_no_pause_is_granted_to_a_consumer_whose_clients_come_back_late() -> None:
    assert begin_turn(NOW, 5.0, None, idle_times(60, 60, 1)).pause_sec == 0.0
    assert begin_turn(NOW, 5.0, None, idle_times(1, 1, 60)).pause_sec == 2.0


# -- decisions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(Policy))
def test_consumer_is_not_evicted_in_its_turn_shortly_after_a_lease(policy: Policy) -> None:
    decision = decide(pair(idle_since=NOW - 1.5, policy=policy), Requirement("b"))

    assert (decision.verdict, decision.retry_at) == (Verdict.WAIT, NOW + 0.5)
    assert decision.message == "a was loaded a moment ago and has its turn for up to 9 s more"


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("late", [{"ends_at": NOW}, {"idle_since": NOW - 2.0}, {"pause_sec": 0.0}])
def test_consumer_is_evicted_after_its_turn_or_a_long_pause(policy: Policy, late: dict[str, float]) -> None:
    decision = decide(pair(**late, policy=policy), Requirement("b"))

    assert [victim.consumer for victim in decision.evictions] == ["a"]


def test_request_that_has_waited_enough_ignores_turns() -> None:
    decision = decide(pair(), Requirement("b", ignores_turns=True))

    assert [victim.consumer for victim in decision.evictions] == ["a"]


def test_request_stops_waiting_for_turns_in_time_for_its_own_load() -> None:
    assert latest_wait(deadline=NOW + 20, load_sec=8.0) == NOW + 7


# -- the queue ---------------------------------------------------------------------------------------------------------


def serve(at: View, *entries: QueueEntry) -> list[Decision]:
    queue_pass = queue_pass_for(at.settings, entries)
    decisions = []
    for entry in entries:
        decided = decide(at, entry.requirement)
        decisions.append(queue_pass.resolve(at, entry, decided).decision)
        if decisions[-1].verdict is Verdict.WAIT:
            queue_pass.mark_waiting(entry, decided.eligible_devices)
    return decisions


def requests(*names: str, **first: Any) -> list[QueueEntry]:
    made = [QueueEntry(number, Requirement(name)) for number, name in enumerate(names)]
    return [replace(made[0], **first), *made[1:]]


LEASED = replace(resident("a", 14000, leases=3), times=LearnedTimes().observe_hold(5.0))


@pytest.mark.parametrize("policy", list(Policy))
def test_leased_consumer_is_leased_again_ahead_of_a_request_for_another(policy: Policy) -> None:
    at = view(LEASED, absent("b", 14000), policy=policy)

    assert [one.verdict for one in serve(at, *requests("b", "a"))] == [Verdict.WAIT, Verdict.GRANT]


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("first", [{"overtaken_sec": 26.0}, {"priority": 1}])
def test_no_lease_goes_ahead_of_a_request_without_budget_or_of_higher_priority(
    policy: Policy, first: dict[str, float]
) -> None:
    at = view(LEASED, absent("b", 14000), policy=policy)

    assert [one.verdict for one in serve(at, *requests("b", "a", **first))] == [Verdict.WAIT, Verdict.WAIT]


def test_consumer_that_has_its_turn_is_leased_ahead_of_a_request_for_another() -> None:
    for slots in (0, 1):
        at = pair(idle_since=NOW - 1.0, concurrent_leases=slots)
        assert [one.verdict for one in serve(at, *requests("b", "a"))] == [Verdict.WAIT, Verdict.GRANT]


def test_resident_consumer_that_is_not_in_use_waits_behind_a_request_that_needs_its_memory() -> None:
    wide = absent("b", 21000)
    at = view(resident("a", 14000), replace(resident("c", 4000), leases=1, claimed_at=0.0), wide)

    assert [one.verdict for one in serve(at, *requests("b", "a"))] == [Verdict.WAIT, Verdict.WAIT]
