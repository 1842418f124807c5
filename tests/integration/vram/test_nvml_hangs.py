"""A driver that hangs: everybody is answered, it is said for how long, and it recovers by itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.vram.conftest import Lab, NvmlWorker
from tests.integration.vram.readings import assert_blind, assert_well, word


def hanging(lab: Lab, where: str = "memory") -> Path:
    gate = lab.directory / "gate"
    gate.touch()
    lab.shim.hang_in, lab.shim.hang_while = where, gate
    lab.write()
    return gate


def wait_until(condition: Callable[[], bool], within_sec: float = 20.0) -> None:
    deadline = time.monotonic() + within_sec
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_until_well(worker: NvmlWorker) -> Any:
    """With so short a limit, a busy machine may look like a hanging driver for a while."""
    wait_until(lambda: not worker.read()["error"])
    return worker.read()


@pytest.mark.parametrize("where", ["memory", "list", "count", "process_name"])
def test_hanging_call_is_answered_fast_and_recovers_by_itself(lab: Lab, where: str) -> None:
    lab.shim.devices[0].compute = {10: 1}
    lab.write()
    worker = lab.worker(call_timeout_sec=1.0)
    assert_well(read_until_well(worker))
    gate = hanging(lab, where)
    first = worker.read()
    assert_blind(first, "nvml-hangs", 1)
    assert 0.9 < first["took_sec"] < 10
    for _ in range(20):
        again = worker.read()
        assert_blind(again, "nvml-hangs", 1)
        assert again["took_sec"] < 0.7, "no job queues up behind the one that hangs"
    assert worker.ask("busy") > 0.9
    assert worker.ask("progressed") > 0.9
    gate.unlink()
    assert_well(read_until_well(worker))
    wait_until(lambda: worker.ask("busy") == 0)


def test_hanging_first_init_is_answered_too(lab: Lab) -> None:
    gate = hanging(lab, "init")
    worker = lab.worker(call_timeout_sec=0.3)
    assert_blind(worker.read(), "nvml-hangs", 0)
    gate.unlink()
    assert_well(read_until_well(worker))


def test_many_readers_of_a_hanging_driver_are_all_answered(lab: Lab) -> None:
    worker = lab.worker(call_timeout_sec=0.5)
    assert_well(read_until_well(worker))
    gate = hanging(lab)
    readings = worker.ask("read_many", 100)
    assert {word(reading["error"]) for reading in readings} == {"nvml-hangs"}
    assert max(reading["took_sec"] for reading in readings) < 10
    gate.unlink()
    assert_well(read_until_well(worker))


def test_hanging_call_does_not_keep_the_process_from_ending(lab: Lab) -> None:
    worker = lab.worker(call_timeout_sec=0.3)
    assert_well(read_until_well(worker))
    hanging(lab)
    assert_blind(worker.read(), "nvml-hangs", 1)
    worker.ask("close")
    assert worker.end() < 5


def test_slow_driver_is_waited_for_and_readings_are_not_older_than_asked(lab: Lab) -> None:
    worker = lab.worker()
    assert_well(worker.read())
    gate = hanging(lab)
    worker.send("read_many", 3)
    wait_until((lab.directory / "gate.entered").exists)
    gate.unlink()
    for reading in worker.answer():
        assert_well(reading)
        assert not reading["stale"]


def test_hang_says_for_how_long(lab: Lab) -> None:
    worker = lab.worker(call_timeout_sec=0.3)
    assert_well(read_until_well(worker))
    gate = hanging(lab)
    wait_until(lambda: worker.read()["error"] == "nvml-hangs: a driver call has not returned for 2 s")
    gate.unlink()
    assert_well(read_until_well(worker))
