"""Every way in which a driver fails, with its word, and how the source recovers: real nvidia-ml-py, fake library."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest

from tests.integration.vram.conftest import Lab
from tests.integration.vram.readings import assert_blind, assert_well, word
from tests.shim import build_shim
from tests.shim.shimfile import ShimDevice

INIT_ERRORS = {9: "driver-not-loaded", 12: "nvml-library-missing", 18: "driver-mismatch", 4: "nvml-error"}


@pytest.mark.parametrize(("code", "expected"), INIT_ERRORS.items())
def test_failing_init_is_named_and_tried_again(lab: Lab, code: int, expected: str) -> None:
    lab.shim.init_error = code
    lab.write()
    worker = lab.worker()
    assert_blind(worker.read(), expected, 0)
    lab.shim.init_error = 0
    lab.write()
    assert_blind(worker.read(), expected, 0)
    assert_well(worker.read_after(1.1))


def test_back_off_doubles_to_a_minute_and_is_forgotten(lab: Lab) -> None:
    lab.shim.init_error = 9
    lab.write()
    worker = lab.worker()
    worker.read()
    for delay_sec in (1, 2, 4, 8, 16, 32, 60, 60):
        lab.shim.init_error = 4
        lab.write()
        assert word(worker.read_after(delay_sec - 0.5)["error"]) == "driver-not-loaded", "not tried before its time"
        lab.shim.init_error = 9
        lab.write()
        assert word(worker.read_after(0.5)["error"]) == "driver-not-loaded"
    lab.shim.init_error = 0
    lab.write()
    assert_well(worker.read_after(60))
    lab.shim.call_error = 999
    lab.write()
    worker.read()
    lab.shim.call_error = 0
    lab.write()
    assert_well(worker.read_after(1.1))


def test_missing_library_that_is_installed_later(lab: Lab) -> None:
    later = lab.directory / "later"
    later.mkdir()
    worker = lab.worker(environment={"LD_LIBRARY_PATH": str(later)})
    assert_blind(worker.read(), "nvml-library-missing", 0)
    build_shim(later)
    assert_well(worker.read_after(1.1))


def test_missing_module_that_is_installed_later(lab: Lab) -> None:
    modules = lab.directory / "modules"
    modules.mkdir()
    # -S leaves site-packages out, where the real one lies.
    worker = lab.worker(environment={"PYTHONPATH": str(modules)}, flags=("-S",))
    assert_blind(worker.read(), "nvml-module-missing", 0)
    source = Path(pynvml.__file__)
    (modules / source.name).write_bytes(source.read_bytes())
    assert_well(worker.read_after(1.1))


def test_broken_module_is_said_to_be_missing(lab: Lab) -> None:
    (lab.directory / "pynvml.py").write_text("raise SystemError('broken\\nbadly')")
    worker = lab.worker(environment={"PYTHONPATH": str(lab.directory)})
    assert_blind(worker.read(), "nvml-module-missing", 0)


def test_module_without_the_functions_is_an_error_not_a_crash(lab: Lab) -> None:
    (lab.directory / "pynvml.py").write_text("def nvmlInit(): pass")
    worker = lab.worker(environment={"PYTHONPATH": str(lab.directory)})
    assert_blind(worker.read(), "nvml-error", 0)


def test_no_devices_until_one_appears(lab: Lab) -> None:
    devices, lab.shim.devices = lab.shim.devices, []
    lab.write()
    worker = lab.worker()
    assert_blind(worker.read(), "no-devices", 0)
    lab.shim.devices = devices
    lab.write()
    assert_well(worker.read_after(1.1))


def test_driver_reloaded_under_us(lab: Lab) -> None:
    worker = lab.worker()
    assert_well(worker.read())
    lab.shim.generation = 1
    lab.write()
    assert_blind(worker.read(), "nvml-error", 1)
    assert_well(worker.read_after(1.1))


def test_driver_unloaded_under_us(lab: Lab) -> None:
    worker = lab.worker()
    assert_well(worker.read())
    lab.shim.call_error = lab.shim.init_error = 9
    lab.write()
    assert_blind(worker.read(), "driver-not-loaded", 1)
    assert_blind(worker.read_after(1.1), "driver-not-loaded", 1)
    lab.shim.call_error = lab.shim.init_error = 0
    lab.write()
    assert_well(worker.read_after(2.1))


def test_driver_upgrade_is_survived_by_loading_the_new_library(lab: Lab) -> None:
    library = build_shim(lab.directory / "installed")
    worker = lab.worker(environment={"LD_LIBRARY_PATH": str(library.parent)})
    assert_well(worker.read())
    build_shim(library.parent, version=2)  # the package is upgraded: the old file stays mapped
    assert_well(worker.read())
    lab.shim.generation, lab.shim.kernel = 1, 2  # and the kernel module is reloaded
    lab.write()
    assert_blind(worker.read(), "nvml-error", 1)
    assert_blind(worker.read_after(1.1), "driver-mismatch", 1)
    assert_well(worker.read_after(2.1))


def test_driver_upgrade_under_a_library_that_stays_mapped_needs_another_process(lab: Lab) -> None:
    library = build_shim(lab.directory / "installed", stays_mapped=True)
    worker = lab.worker(environment={"LD_LIBRARY_PATH": str(library.parent)})
    assert_well(worker.read())
    lab.shim.generation, lab.shim.kernel = 1, 2  # the kernel module first
    lab.write()
    worker.read()
    assert_blind(worker.read_after(1.1), "driver-mismatch", 1)
    assert not worker.ask("outlived"), "no other process would find another library"
    build_shim(library.parent, version=2, stays_mapped=True)
    assert_blind(worker.read_after(2.1), "driver-mismatch", 1)
    assert worker.ask("outlived")
    assert_well(lab.worker(environment={"LD_LIBRARY_PATH": str(library.parent)}).read())
    lab.shim.kernel = 1
    lab.write()
    assert_well(worker.read_after(4.1))
    assert not worker.ask("outlived"), "the old module is back"


def test_mismatch_with_a_library_that_can_be_unloaded_needs_no_other_process(lab: Lab) -> None:
    lab.shim.kernel = 2
    lab.write()
    worker = lab.worker()
    assert_blind(worker.read(), "driver-mismatch", 0)
    assert not worker.ask("outlived")
    build_shim(lab.library.parent / "elsewhere", version=2)
    assert not worker.ask("outlived")


def test_waking_up_begins_anew_with_the_driver_at_once(lab: Lab) -> None:
    shutdowns = lab.directory / "shutdowns"
    worker = lab.worker(environment={"GPUMAND_NVML_SHIM_SHUTDOWNS": str(shutdowns)})
    assert_well(worker.read())
    worker.ask("renew")
    assert_well(worker.read())
    assert_well(worker.read())
    assert shutdowns.read_text() == ".", "once, and not with every reading"


def test_waking_up_waits_for_no_back_off(lab: Lab) -> None:
    lab.shim.init_error = 999  # what a driver says that is not awake yet
    lab.write()
    worker = lab.worker()
    for delay_sec in (0, 1.1, 2.1, 4.1, 8.1):
        assert_blind(worker.read_after(delay_sec), "nvml-error", 0)
    lab.shim.init_error = 0
    lab.write()
    assert_blind(worker.read(), "nvml-error", 0)
    worker.ask("renew")
    assert_well(worker.read())


@pytest.mark.parametrize("code", [1, 9, 999])
def test_every_call_fails_after_a_suspend_until_the_driver_is_initialised_anew(lab: Lab, code: int) -> None:
    lab.shim.devices[0].compute = {10: 1000}
    lab.write()
    worker = lab.worker()
    assert_well(worker.read())
    lab.shim.call_error = code
    lab.write()
    assert_blind(worker.read(), "driver-not-loaded" if code == 9 else "nvml-error", 1)
    lab.shim.call_error, lab.shim.generation = 0, 1
    lab.write()
    assert_well(worker.read_after(1.1))


def test_gpu_that_changes_its_place_is_known_by_its_uuid(lab: Lab) -> None:
    lab.shim.devices.append(ShimDevice("GPU-b", "NVIDIA Shim B", total_mib=8192))
    lab.write()
    worker = lab.worker()
    assert_well(worker.read(), 2)
    lab.shim.devices.reverse()  # as after a reload of the driver with another order of the bus
    lab.shim.generation = 1
    lab.write()
    assert_blind(worker.read(), "nvml-error", 2)
    reading = worker.read_after(1.1)
    assert_well(reading, 2)
    assert [(one["index"], one["uuid"], one["total_mib"]) for one in reading["devices"]] == [
        (0, "GPU-b", 8192),
        (1, "GPU-a", 24576),
    ]


def test_library_upgraded_before_the_kernel_module(lab: Lab) -> None:
    lab.shim.kernel = 2
    lab.write()
    worker = lab.worker()
    assert_blind(worker.read(), "driver-mismatch", 0)
    lab.shim.kernel = 1
    lab.write()
    assert_well(worker.read_after(1.1))


@pytest.mark.parametrize("code", [3])
def test_unified_memory_has_no_figures_but_processes(lab: Lab, code: int) -> None:
    lab.shim.devices[0].memory_error = code
    lab.shim.devices[0].compute = {10: 1000}
    lab.write()
    reading = lab.worker().read()
    [sample] = reading["devices"]
    assert reading["error"] == ""
    assert word(sample["error"]) == "memory-info-not-supported"
    assert [sample[key] for key in ("total_mib", "used_mib", "free_mib")] == [None] * 3
    assert [process["used_mib"] for process in sample["processes"]] == [1000]
    assert sample["attributed"]
    assert not sample["lost"]


def test_total_of_zero_is_unknown_not_zero(lab: Lab) -> None:
    lab.shim.devices[0].total_mib = lab.shim.devices[0].reserved_mib = 0
    lab.write()
    [sample] = lab.worker().read()["devices"]
    assert word(sample["error"]) == "memory-info-not-supported"
    assert sample["free_mib"] is None


def test_lost_gpu_is_told_apart_and_comes_back(lab: Lab) -> None:
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()
    worker = lab.worker()
    assert_well(worker.read(), 2)
    lab.shim.devices[1].lost = True
    lab.write()
    for reading in (worker.read(), worker.read_after(1.1), worker.read_after(2.1)):
        assert reading["error"] == ""
        first, second = reading["devices"]
        assert (first["error"], first["free_mib"], first["lost"]) == ("", 24176, False)
        assert (word(second["error"]), second["free_mib"], second["lost"]) == ("gpu-lost", None, True)
        assert second["uuid"] == "GPU-b", "its name outlives a new start"
    lab.shim.devices[1].lost = False
    lab.write()
    assert_well(worker.read_after(4.1), 2)


def test_gpu_that_cannot_be_opened_at_first(lab: Lab) -> None:
    lab.shim.devices[0].handle_error = 4
    lab.write()
    worker = lab.worker()
    [sample] = worker.read()["devices"]
    assert (word(sample["error"]), sample["lost"], sample["uuid"]) == ("nvml-error", False, "")
    lab.shim.devices[0].handle_error = 0
    lab.write()
    [sample] = worker.read()["devices"]
    assert word(sample["error"]) == "nvml-error", "a new start costs, so it is not tried at once"
    assert_well(worker.read_after(1.1))


@pytest.mark.parametrize("code", [10, 16, 999])
def test_memory_error_of_one_device(lab: Lab, code: int) -> None:
    worker = lab.worker()
    assert_well(worker.read())
    lab.shim.devices[0].memory_error = code
    lab.write()
    reading = worker.read()
    [sample] = reading["devices"]
    assert (reading["error"], word(sample["error"]), sample["lost"]) == ("", "nvml-error", False)
    assert sample["free_mib"] is None
    lab.shim.devices[0].memory_error = 0
    lab.write()
    assert_well(worker.read())


def test_devices_that_come_and_go_are_seen(lab: Lab) -> None:
    worker = lab.worker()
    assert_well(worker.read(), 1)
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()
    assert_well(worker.read(), 2)
    del lab.shim.devices[0]
    lab.write()
    reading = worker.read()
    assert_well(reading, 1)
    assert reading["devices"][0]["uuid"] == "GPU-b", "the list is read anew, not remembered by index"
