"""Queue passes: which requests are served now, by either policy, over plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain import queue_policy
from gpumand.domain.backfill import BackfillAccounting
from gpumand.domain.consumer import Overlap, Policy
from gpumand.domain.decision import Requirement
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import QueueDecision, QueueEntry
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident, view

ADAPTIVE: dict[str, Any] = {"policy": Policy.ADAPTIVE, "concurrent_leases": 1}


def held(state: ConsumerState, seconds: float) -> ConsumerState:
    """The consumer with a learned lease duration."""
    return replace(state, times=LearnedTimes().observe_hold(seconds))


def requests(*names: str, **first: Any) -> list[QueueEntry]:
    """Requests in order; keywords are for the first."""
    made = [QueueEntry(number, Requirement(name)) for number, name in enumerate(names)]
    return [replace(made[0], **first), *made[1:]]


def run_pass(at: View, waiting: list[QueueEntry]) -> list[QueueDecision]:
    """The queue decision of each request while the view does not change."""
    queue_pass = queue_policy.queue_pass_for(at.settings, waiting)
    rulings = []
    for entry in waiting:
        decision = decide(at, entry.requirement)
        ruling = queue_pass.resolve(at, entry, decision)
        rulings.append(ruling)
        if ruling.decision.verdict is not Verdict.GRANT:
            queue_pass.mark_waiting(entry, decision.eligible_devices)
    return rulings


def granted(rulings: list[QueueDecision]) -> list[int]:
    return [number for number, one in enumerate(rulings) if one.decision.verdict is Verdict.GRANT]


RESIDENT, ABSENT = held(resident("here", 15000), 10.0), absent("there", 15000)


def test_lru_serves_strictly_in_order() -> None:
    rulings = run_pass(view(RESIDENT, ABSENT), requests("there", "here"))

    assert rulings[0].decision.load
    assert rulings[0].takes_slot


def test_adaptive_serves_a_resident_first_and_lists_the_overtaken_requests() -> None:
    rulings = run_pass(view(RESIDENT, ABSENT, **ADAPTIVE), requests("there", "here", "here"))

    assert granted(rulings)[0] == 1
    assert rulings[1].overtaken == (0,)
    assert "a request for here goes first" in rulings[0].decision.message


@pytest.mark.parametrize(("overtaken_sec", "expected"), [(20.0, 1), (20.1, 0), (1000.0, 0)])
def test_backfill_stops_at_the_remaining_budget_of_the_first_request(overtaken_sec: float, expected: int) -> None:
    waiting = requests("there", "here", overtaken_sec=overtaken_sec)

    assert granted(run_pass(view(RESIDENT, ABSENT, **ADAPTIVE), waiting))[0] == expected


def test_a_budget_of_zero_is_strict_order() -> None:
    at = view(RESIDENT, ABSENT, **ADAPTIVE, overtake_budget_sec=0.0)

    assert granted(run_pass(at, requests("there", "here")))[0] == 0


def test_a_request_without_budget_left_blocks_backfill_behind_it() -> None:
    other = absent("elsewhere", 15000)
    waiting = [
        QueueEntry(0, Requirement("there")),
        QueueEntry(1, Requirement("elsewhere"), 29.0),
        QueueEntry(2, Requirement("here")),
    ]

    assert granted(run_pass(view(RESIDENT, ABSENT, other, **ADAPTIVE), waiting))[0] == 0


def test_only_requests_of_equal_or_lower_priority_are_overtaken() -> None:
    at = view(RESIDENT, ABSENT, **ADAPTIVE)

    assert granted(run_pass(at, requests("there", "here", priority=1)))[0] == 0
    assert granted(run_pass(at, requests("there", "here", priority=-1)))[0] == 1


def test_no_request_is_served_while_the_only_slot_is_leased() -> None:
    leased = replace(RESIDENT, leases=1, claimed_at=1.0)

    assert granted(run_pass(view(leased, ABSENT, **ADAPTIVE), requests("there", "here"))) == []


def overlapping(*states: ConsumerState, allowed: bool = True, **more: Any) -> View:
    at = view(*states, **ADAPTIVE, overlap=Overlap.ON, **more)
    return replace(at, may_overlap=frozenset({0} if allowed else ()))


LEASED = replace(resident("busy", 6000), leases=1, claimed_at=1.0)


def test_the_first_request_that_needs_a_load_is_loaded_for_during_the_lease() -> None:
    rulings = run_pass(overlapping(LEASED, absent("a", 5000), absent("b", 5000)), requests("busy", "a", "b"))

    assert granted(rulings) == [1], "only one load at a time, for the first of them"
    assert not rulings[1].takes_slot
    assert rulings[1].is_overlap_candidate


def test_a_forbidden_overlapping_load_is_still_reported_as_a_candidate() -> None:
    rulings = run_pass(overlapping(LEASED, absent("a", 5000), allowed=False), requests("a"))

    assert granted(rulings) == []
    assert rulings[0].is_overlap_candidate


def test_an_overlapping_load_evicts_no_consumer_that_a_request_waits_for() -> None:
    states = (LEASED, resident("wanted", 15000), absent("a", 9000))
    at = replace(overlapping(*states), queue_positions={"wanted": 1, "a": 0})

    assert granted(run_pass(at, requests("a", "wanted"))) == []
    assert granted(run_pass(replace(at, queue_positions={"a": 0}), requests("a"))) == [0]


def test_no_second_load_overlaps_a_lease() -> None:
    at = overlapping(LEASED, absent("a", 5000), absent("b", 5000), jobs={0: Job((0,), "a")})

    assert granted(run_pass(at, requests("b"))) == []


def test_a_request_gets_only_one_early_load() -> None:
    waiting = requests("a", was_loaded=True)

    assert granted(run_pass(overlapping(LEASED, absent("a", 5000)), waiting)) == []


def test_consumers_that_load_by_themselves_get_no_early_load() -> None:
    lazy = absent("a", 5000, load=None)
    own = [QueueEntry(0, Requirement("b", from_own_unit=True))]

    assert granted(run_pass(overlapping(LEASED, lazy), requests("a"))) == []
    assert granted(run_pass(overlapping(LEASED, absent("b", 5000)), own)) == []


def test_overtaking_is_charged_as_expected_and_corrected_at_the_end() -> None:
    accounting = BackfillAccounting()
    accounting.begin("lease", (1, 2), 10.0)
    assert [accounting.seconds(number) for number in (1, 2, 3)] == [10.0, 10.0, 0.0]

    accounting.forget(2)
    assert accounting.end("lease", 25.0) == (1, 2)
    assert [accounting.seconds(number) for number in (1, 2, 3)] == [25.0, 0.0, 0.0]
    assert accounting.end("lease", 25.0) == ()


@pytest.mark.parametrize("policy", list(Policy))
def test_a_dry_run_gives_the_decision_of_a_queue_pass(policy: Policy) -> None:
    at = view(RESIDENT, ABSENT, policy=policy)
    others = [(QueueEntry(0, Requirement("there")), ())]

    asked = queue_policy.decide_behind_queue(at, Requirement("here"), others)

    assert asked.verdict is (Verdict.GRANT if policy is Policy.ADAPTIVE else Verdict.WAIT)
    assert queue_policy.decide_behind_queue(at, Requirement("there"), others).message == "1 request is ahead of it"
