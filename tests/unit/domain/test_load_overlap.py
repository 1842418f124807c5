"""Whether loads beside leases slow these down: found out by drawing, not disturbed by chance or by length."""

from __future__ import annotations

from random import Random

import pytest

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.load_overlap import LEAST_COUNT, Overlapping, Slowdown

MEASURED = SchedulerSettings(policy=Policy.ADAPTIVE, overlap=Overlap.MEASURED)


def lived(slowdown: float, leases: int = 400, seed: int = 0) -> tuple[Overlapping, float]:
    """Leases of all lengths, and the longer, the likelier somebody comes meanwhile; share allowed at the end."""
    random, overlapping, allowed = Random(seed), Overlapping(), 0
    for number in range(leases):
        overlapping.began(str(number), (0,))
        may = bool(overlapping.devices(MEASURED, [0]))
        seconds = 10.0 * random.lognormvariate(0, 0.5)
        comes = random.random() < seconds / 30.0
        if comes:
            overlapping.wanted((0,))
        overlapping.ended(str(number), seconds * (slowdown if comes and may else 1.0), 10.0)
        allowed += may and number >= leases // 2
    return overlapping, allowed / (leases - leases // 2)


@pytest.mark.parametrize("seed", range(5))
def test_where_nothing_is_slowed_down_it_goes_on(seed: int) -> None:
    overlapping, share = lived(1.0, seed=seed)

    assert overlapping.slowdown.is_worth_it
    assert share > 0.8, "although leases with a load beside them are longer than others"


@pytest.mark.parametrize("seed", range(5))
def test_where_work_takes_twice_as_long_it_is_left_off(seed: int) -> None:
    overlapping, share = lived(2.0, seed=seed)

    assert overlapping.slowdown.factor > 1.4
    assert not overlapping.slowdown.is_worth_it
    assert 0.0 < share < 0.4, "it is still tried now and then"


def test_until_enough_was_seen_the_two_kinds_take_turns() -> None:
    overlapping = Overlapping()
    drawn = []
    for number in range(2 * LEAST_COUNT):
        overlapping.began(str(number), (0,))
        drawn.append(bool(overlapping.devices(MEASURED, [0])))
        overlapping.ended(str(number), 10.0, 10.0)

    assert drawn == [True, False] * LEAST_COUNT


def test_one_lease_that_may_not_keeps_its_own_device_free_of_loads_only() -> None:
    overlapping = Overlapping()
    overlapping.began("may", (0,))
    overlapping.began("may not", (1,))

    assert overlapping.devices(MEASURED, [0, 1, 2]) == {0, 2}


@pytest.mark.parametrize(
    ("policy", "overlap", "expected"),
    [
        (Policy.LRU, Overlap.ON, set()),
        (Policy.ADAPTIVE, Overlap.OFF, set()),
        (Policy.ADAPTIVE, Overlap.ON, {0, 1}),
        (Policy.ADAPTIVE, Overlap.MEASURED, {0, 1}),
    ],
)
def test_what_is_configured_counts_first(policy: Policy, overlap: Overlap, expected: set[int]) -> None:
    assert Overlapping().devices(SchedulerSettings(policy=policy, overlap=overlap), [0, 1]) == expected


def test_a_lease_of_unknown_length_or_that_nobody_came_to_says_nothing() -> None:
    overlapping = Overlapping()
    overlapping.began("a", (0,))
    overlapping.wanted((0,))
    overlapping.ended("a", 100.0, 0.0)
    overlapping.began("b", (0,))
    overlapping.ended("b", 100.0, 10.0)
    overlapping.ended("never began", 100.0, 10.0)

    assert (overlapping.slowdown.beside, overlapping.slowdown.alone) == (Slowdown().beside, Slowdown().alone)
