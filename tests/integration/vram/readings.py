"""Assertions about readings that succeeded and readings that failed."""

from __future__ import annotations

from typing import Any


def word(text: str) -> str:
    assert "\n" not in text
    return text.partition(": ")[0]


def assert_no_readings(reading: Any, expected: str, devices: int) -> None:
    """Assert that the source failed as a whole and lists earlier devices without readings."""
    assert word(reading["error"]) == expected
    assert len(reading["devices"]) == devices
    for sample in reading["devices"]:
        assert [sample[key] for key in ("total_mib", "used_mib", "free_mib")] == [None] * 3
        assert (sample["attributed"], sample["processes"]) == (False, [])
        assert sample["uuid"].startswith("GPU-")
        assert word(sample["error"]) == expected
    assert not reading["stale"]


def assert_readings(reading: Any, devices: int = 1) -> None:
    assert reading["error"] == ""
    assert [sample["error"] for sample in reading["devices"]] == [""] * devices
    assert all(sample["free_mib"] is not None for sample in reading["devices"])
