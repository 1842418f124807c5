"""Measuring whether overlapping loads slow leases down: not misled by chance or by the length of leases."""

from __future__ import annotations

from random import Random

import pytest

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.load_overlap import MIN_COUNT, OverlapExperiment, Slowdown

MEASURED = SchedulerSettings(policy=Policy.ADAPTIVE, overlap=Overlap.MEASURED)


def simulate(slowdown: float, leases: int = 400, seed: int = 0) -> tuple[OverlapExperiment, float]:
    """Leases of all lengths; the longer one is, the likelier a load is requested. Also returns the share allowed."""
    random, experiment, allowed = Random(seed), OverlapExperiment(), 0
    for number in range(leases):
        experiment.lease_started(str(number), (0,))
        may = bool(experiment.devices_allowed(MEASURED, [0]))
        seconds = 10.0 * random.lognormvariate(0, 0.5)
        comes = random.random() < seconds / 30.0
        if comes:
            experiment.load_requested((0,))
        experiment.lease_ended(str(number), seconds * (slowdown if comes and may else 1.0), 10.0)
        allowed += may and number >= leases // 2
    return experiment, allowed / (leases - leases // 2)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_continues_where_leases_are_not_slowed_down(seed: int) -> None:
    experiment, share = simulate(1.0, seed=seed)

    assert experiment.slowdown.is_acceptable
    assert share > 0.8, "although overlapped leases are longer than others"


@pytest.mark.parametrize("seed", range(5))
def test_overlap_stops_where_leases_take_twice_as_long(seed: int) -> None:
    experiment, share = simulate(2.0, seed=seed)

    assert experiment.slowdown.factor > 1.4
    assert not experiment.slowdown.is_acceptable
    assert 0.0 < share < 0.4, "overlap is still tried now and then"


def test_the_two_groups_alternate_until_enough_leases_were_observed() -> None:
    experiment = OverlapExperiment()
    drawn = []
    for number in range(2 * MIN_COUNT):
        experiment.lease_started(str(number), (0,))
        drawn.append(bool(experiment.devices_allowed(MEASURED, [0])))
        experiment.lease_ended(str(number), 10.0, 10.0)

    assert drawn == [True, False] * MIN_COUNT


def test_a_lease_that_may_not_be_overlapped_blocks_only_its_own_device() -> None:
    experiment = OverlapExperiment()
    experiment.lease_started("overlapped", (0,))
    experiment.lease_started("not overlapped", (1,))

    assert experiment.devices_allowed(MEASURED, [0, 1, 2]) == {0, 2}


@pytest.mark.parametrize(
    ("policy", "overlap", "expected"),
    [
        (Policy.LRU, Overlap.ON, set()),
        (Policy.ADAPTIVE, Overlap.OFF, set()),
        (Policy.ADAPTIVE, Overlap.ON, {0, 1}),
        (Policy.ADAPTIVE, Overlap.MEASURED, {0, 1}),
    ],
)
def test_the_configuration_takes_precedence_over_the_measurement(
    policy: Policy, overlap: Overlap, expected: set[int]
) -> None:
    assert OverlapExperiment().devices_allowed(SchedulerSettings(policy=policy, overlap=overlap), [0, 1]) == expected


def test_leases_of_unknown_usual_length_or_without_a_requested_load_do_not_count() -> None:
    experiment = OverlapExperiment()
    experiment.lease_started("a", (0,))
    experiment.load_requested((0,))
    experiment.lease_ended("a", 100.0, 0.0)
    experiment.lease_started("b", (0,))
    experiment.lease_ended("b", 100.0, 10.0)
    experiment.lease_ended("never began", 100.0, 10.0)

    assert (experiment.slowdown.overlapped, experiment.slowdown.alone) == (Slowdown().overlapped, Slowdown().alone)
