"""A hanging driver: every reading returns in time with the duration of the hang, and the source recovers."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from gpumand.vram.nvml import LAYOUT_SEC
from tests.integration.vram.conftest import Lab, NvmlWorker
from tests.integration.vram.readings import assert_no_readings, assert_readings, word
from tests.waiting import block_until


def hanging(lab: Lab, function: str = "memory") -> Path:
    gate = lab.directory / "gate"
    gate.touch()
    lab.shim.hang_in, lab.shim.hang_while = function, gate
    lab.write()
    return gate


def read_until_it_works(worker: NvmlWorker) -> Any:
    """Read until the source works: with a short timeout, a busy machine may look like a hanging driver for a while."""
    readings: list[Any] = []

    def works() -> bool:
        readings.append(worker.read())
        return not readings[-1]["error"]

    block_until(works, "the source works")
    return readings[-1]


@pytest.mark.parametrize("function", ["memory", "list", "count", "process_name"])
def test_reading_returns_during_a_hang_and_recovers(lab: Lab, function: str) -> None:
    lab.shim.devices[0].compute = {10: 1}
    lab.write()
    worker = lab.worker(call_timeout_sec=1.0)
    assert_readings(read_until_it_works(worker))
    lab.shim.devices[0].compute[11] = 1  # a process whose name is not known yet
    gate = hanging(lab, function)
    first = worker.read_after(LAYOUT_SEC)
    assert_no_readings(first, "nvml-hangs", 1)
    assert 0.9 < first["took_sec"] < 30
    again = [worker.read() for _ in range(20)]
    for reading in again:
        assert_no_readings(reading, "nvml-hangs", 1)
    # Each call that is queued behind the one that hangs would take a second; the median is none of a busy moment.
    assert statistics.median(reading["took_sec"] for reading in again) < 0.7
    assert worker.ask("busy") > 0.9
    assert worker.ask("progressed") > 0.9
    gate.unlink()
    assert_readings(read_until_it_works(worker))
    block_until(lambda: worker.ask("busy") == 0)


def test_reading_returns_if_the_first_init_hangs(lab: Lab) -> None:
    gate = hanging(lab, "init")
    worker = lab.worker(call_timeout_sec=0.3)
    assert_no_readings(worker.read(), "nvml-hangs", 0)
    gate.unlink()
    assert_readings(read_until_it_works(worker))


def test_all_simultaneous_readings_return_during_a_hang(lab: Lab) -> None:
    worker = lab.worker(call_timeout_sec=0.5)
    assert_readings(read_until_it_works(worker))
    gate = hanging(lab)
    readings = worker.ask("read_many", 100)
    assert {word(reading["error"]) for reading in readings} == {"nvml-hangs"}
    assert max(reading["took_sec"] for reading in readings) < 30
    gate.unlink()
    assert_readings(read_until_it_works(worker))


def test_process_can_exit_during_a_hang(lab: Lab) -> None:
    worker = lab.worker(call_timeout_sec=0.3)
    assert_readings(read_until_it_works(worker))
    hanging(lab)
    assert_no_readings(worker.read(), "nvml-hangs", 1)
    worker.ask("close")
    assert worker.end() < 5


def test_reading_waits_for_a_slow_driver_and_is_not_stale(lab: Lab) -> None:
    worker = lab.worker()
    assert_readings(worker.read())
    gate = hanging(lab)
    worker.send("read_many", 3)
    block_until((lab.directory / "gate.entered").exists)
    gate.unlink()
    for reading in worker.answer():
        assert_readings(reading)
        assert not reading["stale"]


def test_error_has_the_duration_of_the_hang(lab: Lab) -> None:
    worker = lab.worker(call_timeout_sec=0.3)
    assert_readings(read_until_it_works(worker))
    gate = hanging(lab)
    block_until(lambda: worker.read()["error"] == "nvml-hangs: a driver call has not returned for 2 s")
    gate.unlink()
    assert_readings(read_until_it_works(worker))
