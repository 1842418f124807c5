"""The history of readings: bounded, and unknown values are not zero."""

from __future__ import annotations

from gpumand.domain.telemetry import MAX_CONSUMERS, MAX_POINTS, UNKNOWN, DevicePoint, Telemetry, TelemetryHistory


def filled(readings: int) -> TelemetryHistory:
    history = TelemetryHistory()
    for number in range(readings):
        history.add(number, {0: DevicePoint(number, Telemetry(number % 101, power_watts=250.4))}, {"llm": number})
    return history


def test_newest_reading_is_last_and_the_oldest_are_dropped() -> None:
    history = filled(MAX_POINTS + 20)
    expected = tuple(range(20, MAX_POINTS + 20))
    assert history.times_usec == expected
    assert history.device(0)["used_mib"] == expected
    assert history.held_mib("llm") == expected


def test_series_that_was_never_known_is_absent() -> None:
    assert filled(3).device(0).keys() == {"used_mib", "utilization_percent", "power_watts"}
    assert filled(3).device(0)["power_watts"] == (250, 250, 250)
    assert filled(3).device(7) == {}


def test_reading_without_a_value_is_unknown_and_not_zero() -> None:
    history = filled(2)
    history.add(5, {0: DevicePoint(None)}, {"llm": None})
    assert history.device(0)["used_mib"] == (0, 1, UNKNOWN)
    assert history.device(0)["utilization_percent"] == (0, 1, UNKNOWN)
    assert history.held_mib("llm") == (1, UNKNOWN), "it begins with the first reading in which it held memory"


def test_consumer_without_memory_takes_no_room() -> None:
    history = TelemetryHistory()
    for number in range(MAX_POINTS + 1):
        history.add(number, {}, {"llm": 0, "tts": 100 if number == 0 else 0})
    assert (history.held_mib("llm"), history.held_mib("tts")) == ((), ())


def test_number_of_consumers_is_bounded() -> None:
    history = TelemetryHistory()
    history.add(1, {}, {f"c{number}": 1 for number in range(MAX_CONSUMERS + 50)})
    shown = [number for number in range(MAX_CONSUMERS + 50) if history.held_mib(f"c{number}")]
    assert len(shown) == MAX_CONSUMERS


def test_device_that_is_gone_is_forgotten() -> None:
    history = filled(2)
    history.add(3, {1: DevicePoint(5)}, {})
    assert (history.device(0), history.device(1)) == ({}, {"used_mib": (5,)})
