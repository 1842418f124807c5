"""Walks through the queue: who is served now, by either policy, over plain values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain import queue_policy
from gpumand.domain.backfill import BackfillAccounting
from gpumand.domain.consumer import Overlap, Policy
from gpumand.domain.learning import Learned
from gpumand.domain.planning import Requirement, decide
from gpumand.domain.queue_pass import QueueEntry, Ruling
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, Job, View
from tests.unit.domain.build import absent, resident, view

ADAPTIVE: dict[str, Any] = {"policy": Policy.ADAPTIVE}


def held(state: ConsumerState, seconds: float) -> ConsumerState:
    """It is known how long it is held."""
    return replace(state, times=Learned().observe_hold(seconds))


def standings(*names: str, **first: Any) -> list[QueueEntry]:
    """Requests in order; keywords are for the first."""
    made = [QueueEntry(number, Requirement(name)) for number, name in enumerate(names)]
    return [replace(made[0], **first), *made[1:]]


def walked(at: View, waiting: list[QueueEntry]) -> list[Ruling]:
    """What becomes of each, were nothing to change meanwhile."""
    walk = queue_policy.queue_pass_for(at.settings, waiting)
    rulings = []
    for standing in waiting:
        decision = decide(at, standing.requirement)
        ruling = walk.rule(at, standing, decision)
        rulings.append(ruling)
        if ruling.decision.verdict is not Verdict.GRANT:
            walk.stays(standing, decision.devices)
    return rulings


def granted(rulings: list[Ruling]) -> list[int]:
    return [number for number, one in enumerate(rulings) if one.decision.verdict is Verdict.GRANT]


RESIDENT, ABSENT = held(resident("here", 15000), 10.0), absent("there", 15000)


def test_lru_serves_strictly_in_order() -> None:
    rulings = walked(view(RESIDENT, ABSENT), standings("there", "here"))

    assert rulings[0].decision.load
    assert rulings[0].takes_slot


def test_adaptive_lets_the_resident_pass_and_counts_whom_it_passes() -> None:
    rulings = walked(view(RESIDENT, ABSENT, **ADAPTIVE), standings("there", "here", "here"))

    assert granted(rulings)[0] == 1
    assert rulings[1].passes == (0,)
    assert "lets here pass" in rulings[0].decision.message


@pytest.mark.parametrize(("overtaken_sec", "expected"), [(20.0, 1), (20.1, 0), (1000.0, 0)])
def test_not_beyond_what_the_first_has_left_of_its_budget(overtaken_sec: float, expected: int) -> None:
    waiting = standings("there", "here", overtaken_sec=overtaken_sec)

    assert granted(walked(view(RESIDENT, ABSENT, **ADAPTIVE), waiting))[0] == expected


def test_a_budget_of_nothing_is_strict_order() -> None:
    at = view(RESIDENT, ABSENT, **ADAPTIVE, overtake_budget_sec=0.0)

    assert granted(walked(at, standings("there", "here")))[0] == 0


def test_one_that_has_been_passed_enough_protects_all_behind_it() -> None:
    other = absent("elsewhere", 15000)
    waiting = [
        QueueEntry(0, Requirement("there")),
        QueueEntry(1, Requirement("elsewhere"), 29.0),
        QueueEntry(2, Requirement("here")),
    ]

    assert granted(walked(view(RESIDENT, ABSENT, other, **ADAPTIVE), waiting))[0] == 0


def test_a_higher_priority_is_not_passed_a_lower_one_is() -> None:
    at = view(RESIDENT, ABSENT, **ADAPTIVE)

    assert granted(walked(at, standings("there", "here", priority=1)))[0] == 0
    assert granted(walked(at, standings("there", "here", priority=-1)))[0] == 1


def test_while_a_lease_stands_nobody_is_served_and_nothing_loaded() -> None:
    leased = replace(RESIDENT, leases=1, claimed_at=1.0)

    assert granted(walked(view(leased, ABSENT, **ADAPTIVE), standings("there", "here"))) == []


def overlapping(*states: ConsumerState, allowed: bool = True, **more: Any) -> View:
    at = view(*states, **ADAPTIVE, overlap=Overlap.ON, **more)
    return replace(at, may_overlap=frozenset({0} if allowed else ()))


LEASED = replace(resident("busy", 6000), leases=1, claimed_at=1.0)


def test_the_next_to_be_loaded_is_loaded_beside_the_lease() -> None:
    rulings = walked(overlapping(LEASED, absent("a", 5000), absent("b", 5000)), standings("busy", "a", "b"))

    assert granted(rulings) == [1], "one at a time, and the first of them"
    assert not rulings[1].takes_slot
    assert rulings[1].is_beside


def test_that_it_would_have_been_is_told_where_it_is_not_allowed() -> None:
    rulings = walked(overlapping(LEASED, absent("a", 5000), allowed=False), standings("a"))

    assert granted(rulings) == []
    assert rulings[0].is_beside


def test_nothing_is_loaded_beside_a_lease_at_the_cost_of_what_is_waited_for() -> None:
    states = (LEASED, resident("wanted", 15000), absent("a", 9000))
    at = replace(overlapping(*states), wanted={"wanted": 1, "a": 0})

    assert granted(walked(at, standings("a", "wanted"))) == []
    assert granted(walked(replace(at, wanted={"a": 0}), standings("a"))) == [0]


def test_nothing_is_loaded_beside_a_lease_while_something_is_loaded() -> None:
    at = overlapping(LEASED, absent("a", 5000), absent("b", 5000), jobs={0: Job((0,), "a")})

    assert granted(walked(at, standings("b"))) == []


def test_what_was_loaded_once_is_not_loaded_ahead_again() -> None:
    waiting = standings("a", was_loaded=True)

    assert granted(walked(overlapping(LEASED, absent("a", 5000)), waiting)) == []


def test_what_loads_by_itself_is_not_loaded_ahead() -> None:
    lazy = absent("a", 5000, load=None)
    own = [QueueEntry(0, Requirement("b", from_own_unit=True))]

    assert granted(walked(overlapping(LEASED, lazy), standings("a"))) == []
    assert granted(walked(overlapping(LEASED, absent("b", 5000)), own)) == []


def test_what_is_passed_is_charged_as_expected_and_corrected_when_it_is_known() -> None:
    overtakings = BackfillAccounting()
    overtakings.begin("lease", (1, 2), 10.0)
    assert [overtakings.seconds(number) for number in (1, 2, 3)] == [10.0, 10.0, 0.0]

    overtakings.forget(2)
    assert overtakings.end("lease", 25.0) == (1, 2)
    assert [overtakings.seconds(number) for number in (1, 2, 3)] == [25.0, 0.0, 0.0]
    assert overtakings.end("lease", 25.0) == ()


@pytest.mark.parametrize("policy", list(Policy))
def test_asking_changes_nothing_and_says_what_the_walk_would(policy: Policy) -> None:
    at = view(RESIDENT, ABSENT, policy=policy)
    others = [(QueueEntry(0, Requirement("there")), ())]

    asked = queue_policy.decide_behind_queue(at, Requirement("here"), others)

    assert asked.verdict is (Verdict.GRANT if policy is Policy.ADAPTIVE else Verdict.WAIT)
    assert queue_policy.decide_behind_queue(at, Requirement("there"), others).message == "1 request ahead of it"
