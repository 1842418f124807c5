"""The number of driver calls: what a reading costs while nothing happens, and while an eviction settles."""

from __future__ import annotations

from collections import Counter

import pytest

from gpumand.arbiter.actions import FREED_POLL_SEC
from gpumand.vram.nvml import LAYOUT_SEC
from tests.integration.vram.conftest import Lab, NvmlWorker
from tests.integration.vram.readings import assert_readings, word
from tests.shim.shimfile import ShimDevice

SAMPLE_SEC = 2.0
SENSORS = {"utilization": 87, "temperature": 71, "temperature_limit": 90, "power": 320_500, "power_limit": 450_000}


class Calls:
    """Counts the driver calls of a worker, and its shutdowns of the library."""

    def __init__(self, lab: Lab) -> None:
        self._log, self._shutdowns = lab.directory / "calls", lab.directory / "shutdowns"
        files = {"GPUMAND_NVML_SHIM_CALLS": str(self._log), "GPUMAND_NVML_SHIM_SHUTDOWNS": str(self._shutdowns)}
        self.worker: NvmlWorker = lab.worker(environment=files)

    def of(self, readings: int, device: int | None = None, every_sec: float = SAMPLE_SEC) -> Counter[str]:
        """Take readings, of all devices or of one, and return the calls that they made by name."""
        self._log.write_text("")
        for _ in range(readings):
            self.worker.ask("advance", every_sec)
            self.worker.read() if device is None else self.worker.ask("read_device", device)
        return Counter(self._log.read_text().split())

    @property
    def shutdowns(self) -> int:
        return len(self._shutdowns.read_text()) if self._shutdowns.exists() else 0


def test_idle_readings_of_a_plain_host_make_fewer_calls_than_before_telemetry_was_read(lab: Lab) -> None:
    """Five calls for each reading of one GPU without processes were made before: count, memory, three lists."""
    for key, value in SENSORS.items():
        setattr(lab.shim.devices[0], key, value)
    lab.write()
    calls = Calls(lab)
    calls.of(1)

    assert calls.of(150).total() <= 150 * 5


def test_name_of_a_process_is_asked_once(lab: Lab) -> None:
    worker_pid = Calls(lab).worker.process.pid
    lab.shim.devices[0].compute = {worker_pid: 100}
    lab.write()
    calls = Calls(lab)

    assert calls.of(5)["process_name"] == 1


def test_eviction_that_settles_on_one_of_eight_gpus_reads_only_that_one(lab: Lab) -> None:
    """1,394 calls a second were made before, with an instance of MIG possible on each of the GPUs."""
    lab.shim.devices = [ShimDevice(f"GPU-{index}", mig=0, compute={10: 100, 11: 200}) for index in range(8)]
    lab.write()
    calls = Calls(lab)
    calls.of(1)

    counted = calls.of(13, device=3, every_sec=FREED_POLL_SEC)

    assert counted["memory"] == 13
    assert counted.keys() <= {"memory", "list", "process_name"}
    a_second = counted.total() / 13 / FREED_POLL_SEC
    assert a_second <= 100, counted


def test_layout_of_mig_is_looked_up_rarely(lab: Lab) -> None:
    lab.shim.devices = [ShimDevice(f"GPU-{index}", mig=0) for index in range(8)]
    lab.write()
    calls = Calls(lab)
    calls.of(1)

    assert calls.of(30)["mig_mode"] <= 8 * (30 * SAMPLE_SEC / LAYOUT_SEC)


def test_one_ill_gpu_does_not_close_the_session_of_the_others(lab: Lab) -> None:
    lab.shim.devices = [ShimDevice(f"GPU-{index}") for index in range(3)]
    lab.write()
    calls = Calls(lab)
    assert_readings(calls.worker.read(), 3)

    lab.shim.devices[1].lost = True
    lab.write()
    counted = calls.of(40, every_sec=10)
    first, ill, last = calls.worker.read()["devices"]
    assert (first["error"], word(ill["error"]), last["error"]) == ("", "gpu-lost", "")
    assert calls.shutdowns == 0
    assert counted["init"] == 0
    assert counted["handle"] > 1, "the ill GPU alone is opened again"

    lab.shim.devices[1].lost = False
    lab.write()
    assert_readings(calls.worker.read_after(61), 3)
    assert calls.shutdowns == 0


def test_session_is_opened_again_where_every_gpu_is_ill(lab: Lab) -> None:
    calls = Calls(lab)
    assert_readings(calls.worker.read())
    lab.shim.devices[0].lost = True
    lab.write()
    calls.worker.read()

    calls.worker.read_after(1.1)

    assert calls.shutdowns == 1


def test_released_driver_is_opened_by_the_next_reading(lab: Lab) -> None:
    calls = Calls(lab)
    assert_readings(calls.worker.read())

    calls.worker.ask("release")
    assert calls.shutdowns == 1
    calls.worker.ask("release")
    assert calls.shutdowns == 1

    assert_readings(calls.worker.read())
    assert_readings(calls.worker.read())
    assert calls.shutdowns == 1


def telemetry_of(lab: Lab, worker: NvmlWorker) -> dict[str, object]:
    values: dict[str, object] = worker.read()["devices"][0]["telemetry"]
    return values


def test_telemetry_is_read_in_its_units(lab: Lab) -> None:
    for key, value in SENSORS.items():
        setattr(lab.shim.devices[0], key, value)
    lab.write()

    assert telemetry_of(lab, lab.worker()) == {
        "utilization_percent": 87,
        "temperature_celsius": 71,
        "temperature_limit_celsius": 90,
        "power_watts": 320.5,
        "power_limit_watts": 450.0,
    }


def test_telemetry_of_a_gpu_in_use_follows_with_every_reading(lab: Lab) -> None:
    lab.shim.devices[0].compute, lab.shim.devices[0].utilization = {10: 100}, 10
    lab.write()
    worker = lab.worker()
    found = []
    for percent in (10, 20, 30):
        lab.shim.devices[0].utilization = percent
        lab.write()
        found.append(telemetry_of(lab, worker)["utilization_percent"])
    assert found == [10, 20, 30]


@pytest.mark.parametrize("code", [3, 15, 999])
def test_values_that_cannot_be_read_are_unknown_and_the_memory_is_read(lab: Lab, code: int) -> None:
    lab.shim.devices[0].compute = {10: 100}
    for key, value in SENSORS.items():
        setattr(lab.shim.devices[0], key, value)
    lab.shim.devices[0].sensor_error = code
    lab.write()
    worker = lab.worker()

    assert set(telemetry_of(lab, worker).values()) == {None}
    assert_readings(worker.read())


def test_values_that_a_gpu_does_not_support_are_asked_once(lab: Lab) -> None:
    lab.shim.devices[0].compute = {10: 100}
    lab.shim.devices[0].temperature = 40
    lab.write()
    calls = Calls(lab)

    counted = calls.of(10)

    assert (counted["temperature"], counted["power"], counted["utilization"]) == (10, 1, 1)


def test_value_that_becomes_unreadable_is_unknown_and_not_the_last_one(lab: Lab) -> None:
    lab.shim.devices[0].compute, lab.shim.devices[0].utilization = {10: 100}, 99
    lab.write()
    worker = lab.worker()
    assert telemetry_of(lab, worker)["utilization_percent"] == 99
    lab.shim.devices[0].sensor_error = 999
    lab.write()
    assert telemetry_of(lab, worker)["utilization_percent"] is None


def test_utilization_beyond_100_percent_is_unknown(lab: Lab) -> None:
    lab.shim.devices[0].utilization = 4_000_000
    lab.write()
    assert telemetry_of(lab, lab.worker())["utilization_percent"] is None
