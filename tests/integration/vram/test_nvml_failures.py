"""Failures of the driver are reported by error words, and the source recovers. The real binding, a fake library."""

from __future__ import annotations

import pytest

from gpumand.testing.host_tree import HostTree
from gpumand.vram.nvml import LAYOUT_SEC
from tests.integration.vram.conftest import Lab
from tests.integration.vram.readings import assert_no_readings, assert_readings, word
from tests.shim import build_shim
from tests.shim.shimfile import ShimDevice

INIT_ERRORS = {9: "driver-not-loaded", 12: "nvml-library-missing", 18: "driver-mismatch", 4: "nvml-error"}


@pytest.mark.parametrize(("code", "expected"), INIT_ERRORS.items())
def test_failing_init_is_reported_and_retried(lab: Lab, code: int, expected: str) -> None:
    lab.shim.init_error = code
    lab.write()
    worker = lab.worker()
    assert_no_readings(worker.read(), expected, 0)
    lab.shim.init_error = 0
    lab.write()
    assert_no_readings(worker.read(), expected, 0)
    assert_readings(worker.read_after(1.1))


def test_back_off_doubles_up_to_a_minute_and_is_reset(lab: Lab) -> None:
    lab.shim.init_error = 9
    lab.write()
    worker = lab.worker()
    worker.read()
    for delay_sec in (1, 2, 4, 8, 16, 32, 60, 60):
        lab.shim.init_error = 4
        lab.write()
        assert word(worker.read_after(delay_sec - 0.5)["error"]) == "driver-not-loaded", (
            "no retry before the delay is over"
        )
        lab.shim.init_error = 9
        lab.write()
        assert word(worker.read_after(0.5)["error"]) == "driver-not-loaded"
    lab.shim.init_error = 0
    lab.write()
    assert_readings(worker.read_after(60))
    lab.shim.call_error = 999
    lab.write()
    worker.read()
    lab.shim.call_error = 0
    lab.write()
    assert_readings(worker.read_after(1.1))


def test_library_installed_later_is_found(lab: Lab) -> None:
    later = lab.directory / "later"
    later.mkdir()
    worker = lab.worker(environment={"LD_LIBRARY_PATH": str(later)})
    assert_no_readings(worker.read(), "nvml-library-missing", 0)
    build_shim(later)
    assert_readings(worker.read_after(1.1))


def test_device_that_appears_later_is_found(lab: Lab) -> None:
    devices, lab.shim.devices = lab.shim.devices, []
    lab.write()
    worker = lab.worker()
    assert_no_readings(worker.read(), "no-devices", 0)
    lab.shim.devices = devices
    lab.write()
    assert_readings(worker.read_after(1.1))


def test_source_recovers_from_a_driver_reload(lab: Lab) -> None:
    worker = lab.worker()
    assert_readings(worker.read())
    lab.shim.generation = 1
    lab.write()
    assert_no_readings(worker.read(), "nvml-error", 1)
    assert_readings(worker.read_after(1.1))


def test_source_recovers_from_an_unloaded_driver(lab: Lab) -> None:
    worker = lab.worker()
    assert_readings(worker.read())
    lab.shim.call_error = lab.shim.init_error = 9
    lab.write()
    assert_no_readings(worker.read(), "driver-not-loaded", 1)
    assert_no_readings(worker.read_after(1.1), "driver-not-loaded", 1)
    lab.shim.call_error = lab.shim.init_error = 0
    lab.write()
    assert_readings(worker.read_after(2.1))


def test_driver_upgrade_loads_the_new_library(lab: Lab) -> None:
    library = build_shim(lab.directory / "installed")
    worker = lab.worker(environment={"LD_LIBRARY_PATH": str(library.parent)})
    assert_readings(worker.read())
    build_shim(library.parent, version=2)  # the package is upgraded: the old file stays mapped
    assert_readings(worker.read())
    lab.shim.generation, lab.shim.kernel = 1, 2  # and the kernel module is reloaded
    lab.write()
    assert_no_readings(worker.read(), "nvml-error", 1)
    assert_no_readings(worker.read_after(1.1), "driver-mismatch", 1)
    assert_readings(worker.read_after(2.1))


def test_driver_upgrade_with_a_library_that_stays_mapped_needs_a_new_process(lab: Lab) -> None:
    library = build_shim(lab.directory / "installed", stays_mapped=True)
    worker = lab.worker(environment={"LD_LIBRARY_PATH": str(library.parent)})
    assert_readings(worker.read())
    lab.shim.generation, lab.shim.kernel = 1, 2  # the kernel module first
    lab.write()
    worker.read()
    assert_no_readings(worker.read_after(1.1), "driver-mismatch", 1)
    assert not worker.ask("needs_new_process"), "a new process would load the same library"
    build_shim(library.parent, version=2, stays_mapped=True)
    assert_no_readings(worker.read_after(2.1), "driver-mismatch", 1)
    assert worker.ask("needs_new_process")
    assert_readings(lab.worker(environment={"LD_LIBRARY_PATH": str(library.parent)}).read())
    lab.shim.kernel = 1
    lab.write()
    assert_readings(worker.read_after(4.1))
    assert not worker.ask("needs_new_process"), "the old kernel module is loaded again"


def test_mismatch_with_a_library_that_can_be_unloaded_needs_no_new_process(lab: Lab) -> None:
    lab.shim.kernel = 2
    lab.write()
    worker = lab.worker()
    assert_no_readings(worker.read(), "driver-mismatch", 0)
    assert not worker.ask("needs_new_process")
    build_shim(lab.library.parent / "elsewhere", version=2)
    assert not worker.ask("needs_new_process")


def test_reopen_reinitialises_the_driver_once(lab: Lab) -> None:
    shutdowns = lab.directory / "shutdowns"
    worker = lab.worker(environment={"GPUMAND_NVML_SHIM_SHUTDOWNS": str(shutdowns)})
    assert_readings(worker.read())
    worker.ask("reopen")
    assert_readings(worker.read())
    assert_readings(worker.read())
    assert shutdowns.read_text() == ".", "once, not with every reading"


def test_reopen_ignores_the_back_off(lab: Lab) -> None:
    lab.shim.init_error = 999  # the error of a driver that has not resumed yet
    lab.write()
    worker = lab.worker()
    for delay_sec in (0, 1.1, 2.1, 4.1, 8.1):
        assert_no_readings(worker.read_after(delay_sec), "nvml-error", 0)
    lab.shim.init_error = 0
    lab.write()
    assert_no_readings(worker.read(), "nvml-error", 0)
    worker.ask("reopen")
    assert_readings(worker.read())


@pytest.mark.parametrize("code", [1, 9, 999])
def test_calls_that_fail_after_a_suspend_reinitialise_the_driver(lab: Lab, code: int) -> None:
    lab.shim.devices[0].compute = {10: 1000}
    lab.write()
    worker = lab.worker()
    assert_readings(worker.read())
    lab.shim.call_error = code
    lab.write()
    assert_no_readings(worker.read(), "driver-not-loaded" if code == 9 else "nvml-error", 1)
    lab.shim.call_error, lab.shim.generation = 0, 1
    lab.write()
    assert_readings(worker.read_after(1.1))


def test_gpu_with_a_new_index_is_identified_by_its_uuid(lab: Lab) -> None:
    lab.shim.devices.append(ShimDevice("GPU-b", "NVIDIA Shim B", total_mib=8192))
    lab.write()
    worker = lab.worker()
    assert_readings(worker.read(), 2)
    lab.shim.devices.reverse()  # as after a driver reload with another order on the bus
    lab.shim.generation = 1
    lab.write()
    assert_no_readings(worker.read(), "nvml-error", 2)
    reading = worker.read_after(1.1)
    assert_readings(reading, 2)
    assert [(one["index"], one["uuid"], one["total_mib"]) for one in reading["devices"]] == [
        (0, "GPU-b", 8192),
        (1, "GPU-a", 24576),
    ]


def test_library_upgraded_before_the_kernel_module_is_a_mismatch(lab: Lab) -> None:
    lab.shim.kernel = 2
    lab.write()
    worker = lab.worker()
    assert_no_readings(worker.read(), "driver-mismatch", 0)
    lab.shim.kernel = 1
    lab.write()
    assert_readings(worker.read_after(1.1))


def test_a_device_without_memory_of_its_own_and_unreadable_host_ram_has_processes_only(lab: Lab) -> None:
    lab.shim.devices[0].memory_error = 3
    lab.shim.devices[0].compute = {10: 1000}
    lab.write()
    reading = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory / "empty")}).read()
    [sample] = reading["devices"]
    assert reading["error"] == ""
    assert word(sample["error"]) == "memory-info-not-supported"
    assert [sample[key] for key in ("total_mib", "used_mib", "free_mib")] == [None] * 3
    assert [process["used_mib"] for process in sample["processes"]] == [1000]
    assert sample["attributed"]
    assert not sample["lost"]


def test_gb10_shares_host_ram_and_keeps_the_processes_of_the_driver(lab: Lab) -> None:
    HostTree(lab.directory).meminfo(127600748, 118566368)
    lab.shim.devices[0] = ShimDevice("GPU-a", "NVIDIA GB10", memory_error=3, compute={900: 25139})
    lab.write()
    worker = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory)})
    reading = worker.read()
    [sample] = reading["devices"]
    assert (reading["error"], sample["error"]) == ("", "")
    assert (sample["total_mib"], sample["free_mib"]) == (124610, 115787 - 4096)
    assert [(process["pid"], process["used_mib"]) for process in sample["processes"]] == [(900, 25139)]
    assert (sample["pool"], sample["integrated"], sample["attributed"]) == ("unified", True, True)
    # Free host RAM rises and falls with every program.
    assert not sample["proves_release"]
    HostTree(lab.directory).meminfo(127600748, 2048000)
    assert worker.read()["devices"][0]["free_mib"] == 0


def test_orin_has_neither_memory_nor_processes_in_nvml(lab: Lab) -> None:
    HostTree(lab.directory).meminfo(7802988, 4194304, "NvMapMemUsed:  2097152 kB")
    lab.shim.devices[0] = ShimDevice("GPU-a", "Orin (nvgpu)", memory_error=3, compute_error=3, graphics_error=3)
    lab.write()
    [sample] = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory)}).read()["devices"]
    assert (sample["total_mib"], sample["free_mib"], sample["attributed"]) == (7620, 0, False)
    assert sample["processes"] == []


@pytest.mark.parametrize(
    ("name", "total_mib", "pool"),
    [("NVIDIA N1X", 8128, "unified"), ("NVIDIA N1X", 60000, "vram"), ("NVIDIA GeForce GT 1030", 2048, "vram")],
)
def test_a_small_total_is_a_part_of_the_pool_on_integrated_gpus_only(
    lab: Lab, name: str, total_mib: int, pool: str
) -> None:
    HostTree(lab.directory).meminfo(127600748, 118566368)
    lab.shim.devices[0] = ShimDevice("GPU-a", name, total_mib=total_mib)
    lab.write()
    [sample] = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory)}).read()["devices"]
    assert sample["pool"] == pool
    assert sample["total_mib"] == (124610 if pool == "unified" else total_mib)


def test_a_card_that_had_memory_of_its_own_never_falls_back_to_host_ram(lab: Lab) -> None:
    """Otherwise one failing call would show the host's free RAM as free VRAM."""
    HostTree(lab.directory).meminfo(127600748, 118566368)
    worker = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory)})
    assert_readings(worker.read())
    lab.shim.devices[0].memory_error = 3
    lab.write()
    [sample] = worker.read()["devices"]
    assert (sample["free_mib"], sample["pool"]) == (None, "vram")
    assert word(sample["error"]) == "memory-info-not-supported"


def test_pci_addresses_come_from_the_drivers_folder_and_not_from_more_calls(lab: Lab) -> None:
    HostTree(lab.directory).write(
        "/proc/driver/nvidia/gpus/0000:01:00.0/information",
        "Model: \t\t NVIDIA Shim A\nIRQ:   \t\t 98\nGPU UUID: \t GPU-a\nBus Type: \t PCIe\n",
    )
    [sample] = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory)}).read()["devices"]
    assert sample["aliases"] == ["0000:01:00.0", "PCI-0000:01:00.0"]


def test_total_of_zero_is_unknown_not_zero(lab: Lab) -> None:
    lab.shim.devices[0].total_mib = lab.shim.devices[0].reserved_mib = 0
    lab.write()
    [sample] = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory / "empty")}).read()["devices"]
    assert word(sample["error"]) == "memory-info-not-supported"
    assert sample["free_mib"] is None


def test_lost_gpu_is_reported_and_recovers(lab: Lab) -> None:
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()
    worker = lab.worker()
    assert_readings(worker.read(), 2)
    lab.shim.devices[1].lost = True
    lab.write()
    for reading in (worker.read(), worker.read_after(1.1), worker.read_after(2.1)):
        assert reading["error"] == ""
        first, second = reading["devices"]
        assert (first["error"], first["free_mib"], first["lost"]) == ("", 24176, False)
        assert (word(second["error"]), second["free_mib"], second["lost"]) == ("gpu-lost", None, True)
        assert second["uuid"] == "GPU-b", "its UUID is kept when the library is reinitialised"
    lab.shim.devices[1].lost = False
    lab.write()
    assert_readings(worker.read_after(4.1), 2)


def test_gpu_that_cannot_be_opened_at_first_is_retried(lab: Lab) -> None:
    lab.shim.devices[0].handle_error = 4
    lab.write()
    worker = lab.worker()
    [sample] = worker.read()["devices"]
    assert (word(sample["error"]), sample["lost"], sample["uuid"]) == ("nvml-error", False, "")
    lab.shim.devices[0].handle_error = 0
    lab.write()
    [sample] = worker.read()["devices"]
    assert word(sample["error"]) == "nvml-error", "reinitialisation is expensive, so it is not tried at once"
    assert_readings(worker.read_after(1.1))


LOST_CODES = {15: "gpu-lost", 16: "gpu-reset-required", 28: "gpu-not-found"}


@pytest.mark.parametrize(("code", "expected"), LOST_CODES.items())
@pytest.mark.parametrize("call", ["memory", "compute", "handle"])
def test_gpu_that_must_be_reset_or_is_not_found_is_lost(lab: Lab, call: str, code: int, expected: str) -> None:
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()
    worker = lab.worker()
    assert_readings(worker.read(), 2)
    setattr(lab.shim.devices[1], f"{call}_error", code)
    lab.shim.generation = 1 if call == "handle" else 0  # a handle is requested when the library is initialised
    lab.write()
    worker.read()
    first, second = worker.read_after(1.1)["devices"]
    assert (first["error"], first["lost"]) == ("", False)
    assert (word(second["error"]), second["free_mib"], second["lost"]) == (expected, None, True)


def test_driver_that_fails_to_initialise_again_after_a_failure_is_lost(lab: Lab) -> None:
    worker = lab.worker()
    assert_readings(worker.read())
    lab.shim.devices[0].memory_error = lab.shim.init_error = 999
    lab.write()
    assert word(worker.read()["devices"][0]["error"]) == "nvml-error", "one failed call says little"
    assert_no_readings(worker.read_after(1.1), "driver-lost", 1)
    lab.shim.devices[0].memory_error = lab.shim.init_error = 0
    lab.write()
    assert_readings(worker.read_after(2.1))


def test_driver_that_has_not_resumed_yet_is_not_lost(lab: Lab) -> None:
    worker = lab.worker()
    assert_readings(worker.read())
    lab.shim.init_error = 999
    lab.write()
    worker.ask("reopen")
    assert_no_readings(worker.read(), "nvml-error", 1)
    assert_no_readings(worker.read_after(1.1), "nvml-error", 1)
    lab.shim.init_error = 0
    lab.write()
    assert_readings(worker.read_after(2.1))


@pytest.mark.parametrize("code", [10, 999])
def test_memory_error_of_one_device_is_reported_and_recovers(lab: Lab, code: int) -> None:
    worker = lab.worker()
    assert_readings(worker.read())
    lab.shim.devices[0].memory_error = code
    lab.write()
    reading = worker.read()
    [sample] = reading["devices"]
    assert (reading["error"], word(sample["error"]), sample["lost"]) == ("", "nvml-error", False)
    assert sample["free_mib"] is None
    lab.shim.devices[0].memory_error = 0
    lab.write()
    assert_readings(worker.read())


def test_added_and_removed_devices_are_noticed(lab: Lab) -> None:
    worker = lab.worker()
    assert_readings(worker.read(), 1)
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()
    assert_readings(worker.read_after(LAYOUT_SEC), 2)
    del lab.shim.devices[0]
    lab.write()
    reading = worker.read_after(LAYOUT_SEC)
    assert_readings(reading, 1)
    assert reading["devices"][0]["uuid"] == "GPU-b", "the list is read again and not cached by index"
