"""Measurements become lines of configuration."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from gpumand.cli.calibration import Calibration, StabilityDetector, Unload
from gpumand.cli.render.calibration import as_json, toml_lines

GOOD = Unload("http", 800_000, 2600, 240)


def found(**changes: Any) -> Calibration:
    usual: dict[str, Any] = {"steady_mib": 2851, "peak_mib": 3001, "loads_usec": (12_000_000, 18_400_000)}
    return Calibration("my voice", 2867, **(usual | {"unloads": (GOOD,)} | changes))


def settings(calibration: Calibration) -> dict[str, Any]:
    """The configuration lines, parsed as the daemon parses them."""
    table: dict[str, Any] = tomllib.loads("\n".join(toml_lines(calibration)))["consumers"]["my voice"]
    return table


def test_footprints_are_rounded_up_and_the_load_timeout_has_a_margin() -> None:
    assert settings(found()) == {"vram_resident_mib": 3008, "residual_mib": 256, "load_timeout_sec": 60}
    assert as_json(found())["settings"] == settings(found())


def test_settings_without_a_measurement_are_left_out() -> None:
    assert settings(found(loads_usec=(), unloads=())) == {"vram_resident_mib": 3008}


def test_negligible_residual_is_left_out() -> None:
    assert "residual_mib" not in settings(found(unloads=(Unload("http", 1, 2800, 64),)))


@pytest.mark.parametrize(("freed", "stayed", "counts"), [(2600, 240, True), (1000, 1851, False), (0, 2851, False)])
def test_residual_of_a_failed_unload_counts_if_most_memory_was_freed(freed: int, stayed: int, counts: bool) -> None:
    failed = found(unloads=(Unload("http", 0, freed, stayed, "too little became free"),))
    assert ("residual_mib" in settings(failed)) is counts
    assert any("failed: too little became free" in line for line in toml_lines(failed))


def test_memory_left_after_a_unit_stop_is_not_a_residual() -> None:
    assert "residual_mib" not in settings(found(unloads=(Unload("unit-stop", 1, 2600, 240),)))


def test_hostile_error_text_stays_in_its_comment() -> None:
    hostile = found(unloads=(Unload("http", error="no\n[consumers.evil]\x1b[2J"),))
    assert settings(hostile)["vram_resident_mib"] == 3008


def test_reading_is_stable_after_five_seconds_without_a_change() -> None:
    detector = StabilityDetector(5.0)
    assert not detector.add(100, 1, 0.0)
    assert not detector.add(2000, 2, 1.0)
    assert not detector.add(2050, 3, 5.9), "five seconds since the last change are not over"
    assert detector.add(2050, 4, 6.0)
    assert detector.peak_mib == 2050


def test_repeated_old_sample_does_not_count_as_stable() -> None:
    detector = StabilityDetector(5.0)
    assert not detector.add(2000, 7, 0.0)
    assert not detector.add(2000, 7, 60.0)
    assert detector.add(2000, 8, 60.0)
