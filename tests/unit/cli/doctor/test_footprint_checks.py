"""What is declared, what was measured, and what nobody knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.cli import samples
from tests.unit.cli.doctor.good import GOOD, found, only, status


@pytest.mark.parametrize(("peak", "is_wrong"), [(2867, False), (3100, False), (3200, True), (2000, True)])
def test_footprints_more_than_a_tenth_off_are_wrong(peak: int, is_wrong: bool) -> None:
    facts = replace(GOOD, learned={"mvoice": {"peak_mib": peak}})
    findings = found(facts, "footprints")
    assert [one.mend for one in findings] == ([f"[consumers.mvoice] vram_resident_mib = {peak}"] if is_wrong else [])


def test_a_footprint_that_is_left_to_be_measured_is_never_wrong() -> None:
    automatic = status(consumers=[samples.consumer("mvoice", vram_auto=True)])
    assert found(replace(GOOD, status=automatic, learned={"mvoice": {"peak_mib": 9}}), "footprints") == []


def test_a_footprint_that_nobody_knows_is_a_problem_and_counts_nowhere() -> None:
    unknown = samples.consumer("mvoice", vram_auto=True, pinned=True)
    del unknown["vram_resident_mib"]
    facts = replace(GOOD, status=status(consumers=[unknown]))
    finding = only(facts, "footprints")
    assert finding.what == "nobody knows how much VRAM mvoice needs"
    assert "vram_guess_mib = MIB" in finding.mend
    assert found(facts, "room") == []
