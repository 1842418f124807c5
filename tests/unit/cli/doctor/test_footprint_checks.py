"""Checks of declared, measured and unknown footprints."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, status


@pytest.mark.parametrize(("peak", "is_wrong"), [(2867, False), (3100, False), (3200, True), (2000, True)])
def test_footprints_more_than_a_tenth_off_are_warnings(peak: int, is_wrong: bool) -> None:
    facts = replace(HEALTHY, learned={"mvoice": {"peak_mib": peak}})
    footprints = findings(facts, "footprints")
    assert [one.fix for one in footprints] == ([f"[consumers.mvoice] vram_resident_mib = {peak}"] if is_wrong else [])


def test_an_automatic_footprint_is_never_a_finding() -> None:
    automatic = status(consumers=[samples.consumer("mvoice", vram_auto=True)])
    assert findings(replace(HEALTHY, status=automatic, learned={"mvoice": {"peak_mib": 9}}), "footprints") == []


def test_an_unknown_footprint_is_a_problem_and_counts_as_zero() -> None:
    unknown = samples.consumer("mvoice", vram_auto=True, pinned=True)
    del unknown["vram_resident_mib"]
    facts = replace(HEALTHY, status=status(consumers=[unknown]))
    finding = only_finding(facts, "footprints")
    assert finding.what == "the VRAM requirement of mvoice is unknown"
    assert "vram_guess_mib = MIB" in finding.fix
    assert findings(facts, "room") == []
