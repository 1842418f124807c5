"""The clock of the fleet is the one of the kernel that goes on while the host is suspended."""

from __future__ import annotations

import time

import pytest

from gpumand.fleet.clock import BoottimeClock


def test_boottime_reads_the_clock_that_counts_time_spent_suspended(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def clock_gettime(clock_id: int) -> float:
        asked.append(clock_id)
        return 12.5

    monkeypatch.setattr(time, "clock_gettime", clock_gettime)
    assert BoottimeClock().boottime() == 12.5
    assert asked == [time.CLOCK_BOOTTIME]
