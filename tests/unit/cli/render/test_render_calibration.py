"""From figures to lines of configuration."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from gpumand.cli.calibration import Calibration, Stillness, Unload
from gpumand.cli.render.calibration import as_json, toml_lines

GOOD = Unload("http", 800_000, 2600, 240)


def found(**changes: Any) -> Calibration:
    usual: dict[str, Any] = {"steady_mib": 2851, "peak_mib": 3001, "loads_usec": (12_000_000, 18_400_000)}
    return Calibration("my voice", 2867, **(usual | {"unloads": (GOOD,)} | changes))


def settings(calibration: Calibration) -> dict[str, Any]:
    """What is to be pasted, read as the daemon reads it."""
    table: dict[str, Any] = tomllib.loads("\n".join(toml_lines(calibration)))["consumers"]["my voice"]
    return table


def test_figures_are_rounded_up_and_times_have_room() -> None:
    assert settings(found()) == {"vram_resident_mib": 3008, "residual_mib": 256, "load_timeout_sec": 60}
    assert as_json(found())["settings"] == settings(found())


def test_what_was_not_seen_is_left_out() -> None:
    assert settings(found(loads_usec=(), unloads=())) == {"vram_resident_mib": 3008}


def test_a_few_mib_that_stay_are_nothing_to_declare() -> None:
    assert "residual_mib" not in settings(found(unloads=(Unload("http", 1, 2800, 64),)))


@pytest.mark.parametrize(("freed", "stayed", "counts"), [(2600, 240, True), (1000, 1851, False), (0, 2851, False)])
def test_what_a_failed_route_left_counts_only_where_it_freed_more(freed: int, stayed: int, counts: bool) -> None:
    failed = found(unloads=(Unload("http", 0, freed, stayed, "too little became free"),))
    assert ("residual_mib" in settings(failed)) is counts
    assert any("failed: too little became free" in line for line in toml_lines(failed))


def test_what_stays_after_a_stop_is_no_residual_of_the_route() -> None:
    assert "residual_mib" not in settings(found(unloads=(Unload("unit-stop", 1, 2600, 240),)))


def test_hostile_text_stays_in_its_comment() -> None:
    hostile = found(unloads=(Unload("http", error="no\n[consumers.evil]\x1b[2J"),))
    assert settings(hostile)["vram_resident_mib"] == 3008


def test_a_figure_is_still_when_new_samples_have_not_moved_it_for_long_enough() -> None:
    still = Stillness(5.0)
    assert not still.feed(100, 1, 0.0)
    assert not still.feed(2000, 2, 1.0)
    assert not still.feed(2050, 3, 5.9), "five seconds since the last move are not over"
    assert still.feed(2050, 4, 6.0)
    assert still.peak_mib == 2050


def test_one_old_sample_is_no_stillness() -> None:
    still = Stillness(5.0)
    assert not still.feed(2000, 7, 0.0)
    assert not still.feed(2000, 7, 60.0)
    assert still.feed(2000, 8, 60.0)
