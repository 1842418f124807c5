"""What a reading must be like, when all is well and when nothing can be read."""

from __future__ import annotations

from typing import Any


def word(text: str) -> str:
    assert "\n" not in text
    return text.partition(": ")[0]


def assert_blind(reading: Any, expected: str, devices: int) -> None:
    """The source failed as a whole; devices seen before are listed without figures."""
    assert word(reading["error"]) == expected
    assert len(reading["devices"]) == devices
    for sample in reading["devices"]:
        assert [sample[key] for key in ("total_mib", "used_mib", "free_mib")] == [None] * 3
        assert (sample["attributed"], sample["processes"]) == (False, [])
        assert sample["uuid"].startswith("GPU-")
        assert word(sample["error"]) == expected
    assert not reading["stale"]


def assert_well(reading: Any, devices: int = 1) -> None:
    assert reading["error"] == ""
    assert [sample["error"] for sample in reading["devices"]] == [""] * devices
    assert all(sample["free_mib"] is not None for sample in reading["devices"])
