"""Measured footprints: averaging, peaks, and records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpumand.domain.footprint import PEAKS_KEPT, Footprint


def test_new_footprint_has_no_measurements() -> None:
    nothing = Footprint()
    assert (nothing.steady_mib, nothing.peak_mib, nothing.residual_mib) == (None, None, None)
    assert not nothing.contradicts(1)


def test_first_stay_is_stored_unchanged_and_later_stays_are_averaged() -> None:
    one = Footprint().with_stay(4000, 4600)
    two = one.with_stay(5000, 5100)
    assert (one.steady_mib, one.peak_mib) == (4000, 4600)
    assert (two.steady_mib, two.peak_mib, two.stays) == (4200, 5100, 2)


def test_highest_peak_counts_until_enough_newer_stays_replace_it() -> None:
    footprint = Footprint().with_stay(4000, 9000)
    for _ in range(PEAKS_KEPT - 1):
        footprint = footprint.with_stay(4000, 5000)
    assert footprint.peak_mib == 9000
    assert footprint.with_stay(4000, 5000).peak_mib == 5000


def test_peak_is_never_below_the_steady_value() -> None:
    assert Footprint().with_stay(4000, 3000).peak_mib == 4000


@pytest.mark.parametrize(
    ("declared", "wrong"), [(5000, False), (5500, False), (4600, False), (4500, True), (5600, True)]
)
def test_declared_footprint_is_wrong_beyond_a_tenth(declared: int, *, wrong: bool) -> None:
    assert Footprint().with_stay(4800, 5000).contradicts(declared) is wrong


def test_record_restores_the_footprint() -> None:
    footprint = Footprint().with_stay(4000, 4600).with_stay(4100, 4500).with_residual(310)
    assert Footprint.from_record(json.loads(json.dumps(footprint.to_record()))) == footprint


@pytest.mark.parametrize(
    "record",
    [
        {"steady_mib": "much"},
        {"steady_mib": -1},
        {"steady_mib": float("nan")},
        {"steady_mib": float("inf")},
        {"steady_mib": True},
        {"residual_mib": [1]},
        {"peaks_mib": 3},
        {"peaks_mib": [1] * (PEAKS_KEPT + 1)},
        {"stays": 1.5},
        {"stays": -1},
        {"stays": None},
    ],
)
def test_malformed_record_is_rejected(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not a "):
        Footprint.from_record(record)


def test_invalid_peaks_in_a_record_are_skipped() -> None:
    assert Footprint.from_record({"peaks_mib": [1, "2", None, -3, 4]}).peaks_mib == (1, 4)


def test_peaks_of_zero_in_a_record_are_ignored() -> None:
    assert Footprint.from_record({"peaks_mib": [0, 0.5]}).peak_mib is None


@pytest.mark.parametrize(
    ("declared", "peaks", "stays", "steady"),
    [(13000, (12500,), 1, 9000.0), (448, (448,), 1, 9000.0), (5000, (), 0, None)],
)
def test_stays_that_contradict_a_corrected_footprint_are_left_out(
    declared: int, peaks: tuple[int, ...], stays: int, steady: float | None
) -> None:
    footprint = Footprint(9000.0, (448, 12500), 300.0, 12)
    corrected = footprint.agreeing_with(declared)
    assert (corrected.peaks_mib, corrected.stays, corrected.steady_mib) == (peaks, stays, steady)
    assert corrected.residual_mib == 300.0


def test_a_footprint_that_agrees_with_the_declared_one_stays_as_it_is() -> None:
    footprint = Footprint(9000.0, (9000,) * PEAKS_KEPT, None, 40)
    assert footprint.agreeing_with(9500) is footprint
