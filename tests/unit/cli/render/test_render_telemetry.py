"""The line of a device in top, and graphs of braille characters."""

from __future__ import annotations

import pytest

from gpumand.cli.render.sparkline import sparkline
from gpumand.cli.render.telemetry import consumer_history_line, telemetry_lines
from gpumand.cli.render.theme import Theme
from tests.unit.cli import samples

HOT = {
    "utilization_percent": 87,
    "temperature_celsius": 71,
    "temperature_limit_celsius": 90,
    "power_watts": 320.5,
    "power_limit_watts": 450.0,
    "history": {"utilization_percent": [0, 25, 50, 75, 100, 87], "used_mib": [0, 24564]},
}


@pytest.mark.parametrize(
    ("values", "graph"),
    [
        ([0, 100], "\u28b8"),
        ([100, 100], "\u28ff"),
        ([25, 50], "\u28e0"),
        ([0, 0, 1, 100], "\u2800\u28f8"),
        ([100], "\u28b8"),
        ([-1, 100], "\u28b8"),
        ([500, 500], "\u28ff"),
        ([], ""),
    ],
)
def test_graph_has_two_readings_in_each_character(values: list[int], graph: str) -> None:
    assert sparkline(values, 100, 10) == graph


def test_graph_shows_the_newest_readings() -> None:
    assert sparkline([100] * 50 + [0, 0], 100, 2) == "\u28ff\u2800"
    assert sparkline([100] * 50 + [0, 0], 100, 4, unicode=False) == "##  "


def test_graph_without_a_scale_is_empty() -> None:
    assert sparkline([5, 5], 0, 4) == "\u2800"


def plain(device: dict[str, object], **theme: object) -> list[str]:
    return [line.plain for line in telemetry_lines(samples.device(**device), Theme(**theme))]  # type: ignore[arg-type]


def test_device_has_one_line() -> None:
    (line,) = plain(HOT)
    assert line.startswith("  busy  87 % \u2880\u28f4\u28f7   ")
    assert "71 °C of 90   320 W of 450   memory \u28b8" in line


def test_device_without_telemetry_has_no_line() -> None:
    assert plain({}) == []
    assert plain({"history": {}}) == []


def test_unknown_values_are_left_out() -> None:
    assert plain({"temperature_celsius": 40}) == ["  40 °C"]
    assert plain({"power_watts": 0.0, "utilization_percent": 0}) == ["  busy   0 %   0 W"]


def test_screen_without_unicode_gets_ascii() -> None:
    (line,) = plain(HOT, unicode=False)
    assert line.isascii()
    assert "71 C of 90" in line


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 200])
def test_line_fits_the_screen(width: int) -> None:
    assert all(len(line) <= width for line in plain(HOT, width=width))


def test_hot_device_is_marked() -> None:
    (line,) = telemetry_lines(samples.device(temperature_celsius=86, temperature_limit_celsius=90), Theme(color=True))
    assert ("86 °C of 90", "bold red") in line._pieces


def test_memory_of_a_consumer_over_time() -> None:
    shown = consumer_history_line(samples.consumer("llm", used_mib_history=[0, 4096, 8192]), Theme())
    assert shown.plain == "  memory of llm \u2800\u28fc peak 8.0 GiB"


@pytest.mark.parametrize("history", [None, [], [4096], [0, 0], [-1, -1]])
def test_consumer_that_has_held_no_memory_has_no_graph(history: list[int] | None) -> None:
    assert not consumer_history_line(samples.consumer("llm", used_mib_history=history), Theme())
