"""Readings of a working driver in all its versions: the real binding with a fake library."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from gpumand.testing.host_tree import HostTree
from tests.integration.vram.conftest import Lab
from tests.shim import shim_environment
from tests.shim.shimfile import ShimDevice
from tests.unit.vram.dmem_trees import Dmem


def only_device(reading: Any) -> Any:
    assert reading["error"] == ""
    [device] = reading["devices"]
    return device


def test_memory_of_every_device_is_read(lab: Lab) -> None:
    lab.shim.devices.append(ShimDevice("GPU-b", "NVIDIA Shim B", total_mib=81559, reserved_mib=559, used_mib=1000))
    lab.write()
    reading = lab.worker().read()
    first, second = reading["devices"]
    assert (first["index"], first["uuid"], first["name"], first["source"]) == (0, "GPU-a", "NVIDIA Shim A", "nvml")
    assert (first["total_mib"], first["used_mib"], first["free_mib"]) == (24576, 0, 24176)
    assert (second["index"], second["total_mib"], second["used_mib"], second["free_mib"]) == (1, 81559, 1000, 80000)
    assert first["attributed"]
    assert first["error"] == ""
    assert first["sampled_usec"] > 1_600_000_000_000_000


def test_free_memory_is_the_value_of_the_driver(lab: Lab) -> None:
    lab.shim.devices[0].free_mib, lab.shim.devices[0].used_mib = 20000, 1000
    lab.write()
    device = only_device(lab.worker().read())
    assert (device["used_mib"], device["free_mib"]) == (1000, 20000)


@pytest.mark.parametrize("code", [2, 13, 25])
def test_driver_without_v2_memory_info_includes_the_reserve_in_used(lab: Lab, code: int) -> None:
    lab.shim.devices[0].memory_v2_error = code
    lab.shim.devices[0].compute = {4711: 1000}
    lab.write()
    device = only_device(lab.worker().read())
    assert (device["total_mib"], device["used_mib"], device["free_mib"]) == (24576, 1400, 23176)


def test_library_without_v2_symbol_uses_v1(lab_of: Callable[..., Lab]) -> None:
    device = only_device(lab_of("nvmlDeviceGetMemoryInfo_v2").worker().read())
    assert (device["used_mib"], device["free_mib"]) == (400, 24176)


def test_process_lists_are_merged_and_not_added(lab: Lab) -> None:
    device = lab.shim.devices[0]
    device.compute = {10: 1000, 11: None, 12: None}
    device.graphics = {10: 1000, 11: 300, 13: 50}
    device.mps, device.mps_error = {14: 70, 12: None}, 0
    lab.write()
    sample = only_device(lab.worker().read())
    held = {process["pid"]: process["used_mib"] for process in sample["processes"]}
    assert held == {10: 1000, 11: 300, 12: None, 13: 50, 14: 70}
    assert not sample["attributed"], "the memory of 12 is not available"


def test_sample_is_attributed_without_an_mps_list(lab: Lab) -> None:
    lab.shim.devices[0].compute = {10: 1000}
    for lab.shim.devices[0].mps_error in (3, 13):
        lab.write()
        assert only_device(lab.worker().read())["attributed"]


@pytest.mark.parametrize("which", ["compute_error", "graphics_error"])
@pytest.mark.parametrize("code", [3, 4, 999])
def test_failed_process_list_keeps_memory_but_no_attribution(lab: Lab, which: str, code: int) -> None:
    setattr(lab.shim.devices[0], which, code)
    lab.shim.devices[0].graphics = {10: 1000} if which == "compute_error" else {}
    lab.write()
    sample = only_device(lab.worker().read())
    assert sample["total_mib"] == 24576
    assert not sample["attributed"]
    assert len(sample["processes"]) == len(lab.shim.devices[0].graphics)


def test_failing_mps_list_prevents_attribution(lab: Lab) -> None:
    lab.shim.devices[0].mps_error = 4
    lab.write()
    assert not only_device(lab.worker().read())["attributed"]


def test_older_library_with_v2_lists_is_supported(lab_of: Callable[..., Lab]) -> None:
    lab = lab_of("nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetGraphicsRunningProcesses_v3")
    lab.shim.devices[0].compute = {10: 1000}
    lab.write()
    sample = only_device(lab.worker().read())
    assert [process["used_mib"] for process in sample["processes"]] == [1000]
    assert sample["attributed"]


def test_library_without_any_list_is_not_attributed(lab_of: Callable[..., Lab]) -> None:
    missing = [
        f"nvmlDeviceGet{kind}RunningProcesses_v{version}" for kind in ("Compute", "Graphics") for version in (2, 3)
    ]
    sample = only_device(lab_of(*missing).worker().read())
    assert (sample["total_mib"], sample["attributed"]) == (24576, False)


@pytest.mark.parametrize(("grow", "attributed"), [(2, True), (3, False)])
def test_list_that_grows_during_the_call_is_read_again(lab: Lab, grow: int, attributed: bool) -> None:
    lab.shim.grow = grow
    lab.shim.devices[0].compute = {10: 1000}
    lab.write()
    assert only_device(lab.worker().read())["attributed"] is attributed


def test_lists_with_larger_entries_than_the_api_says_are_read_in_their_older_version(lab: Lab) -> None:
    lab.shim.wide_lists = True
    lab.shim.devices[0].compute = {4711: 8000, 4712: 3000, 4713: None}
    lab.write()
    sample = only_device(lab.worker().read())
    assert {one["pid"]: one["used_mib"] for one in sample["processes"]} == {4711: 8000, 4712: 3000, 4713: None}


def test_damaged_entries_of_a_list_are_left_out_and_the_list_is_incomplete(lab_of: Callable[..., Lab]) -> None:
    lab = lab_of("nvmlDeviceGetComputeRunningProcesses_v2")
    lab.shim.wide_lists = True
    lab.shim.devices[0].compute = {4711: 8000, 4712: 3000}
    lab.write()
    sample = only_device(lab.worker().read())
    assert [(one["pid"], one["used_mib"]) for one in sample["processes"]] == [(4711, 8000)]
    assert not sample["attributed"], "the process 4712 is missing"


def test_process_that_seems_to_hold_nothing_is_unknown_while_memory_is_unexplained(lab: Lab) -> None:
    lab.shim.devices[0].compute = {4711: 0, 4712: 300}
    lab.shim.devices[0].used_mib = 9000
    lab.write()
    sample = only_device(lab.worker().read())
    assert {one["pid"]: one["used_mib"] for one in sample["processes"]} == {4711: None, 4712: 300}
    assert not sample["attributed"]
    lab.shim.devices[0].used_mib = 400
    lab.write()
    sample = only_device(lab.worker().read())
    assert {one["pid"]: one["used_mib"] for one in sample["processes"]} == {4711: 0, 4712: 300}
    assert sample["attributed"]


def test_process_that_seems_to_hold_more_than_the_device_has_is_unknown(lab: Lab) -> None:
    lab.shim.devices[0].compute = {4711: 1 << 30, 4712: 300}
    lab.shim.devices[0].used_mib = 9000
    lab.write()
    sample = only_device(lab.worker().read())
    assert {one["pid"]: one["used_mib"] for one in sample["processes"]} == {4711: None, 4712: 300}
    assert not sample["attributed"]


def test_process_names_come_from_nvml_or_proc_and_are_printable(lab: Lab) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    lab.shim.process_names = {10: "/opt/comfy ui/bin/python3", 11: "x" * 200, 12: "a\x07b", os.getpid(): "/"}
    lab.shim.devices[0].compute = dict.fromkeys((10, 11, 12, sleeper.pid, 1 << 22), 1)
    lab.write()
    try:
        sample = only_device(lab.worker().read())
    finally:
        sleeper.kill()
        sleeper.wait()
    names = {process["pid"]: process["name"] for process in sample["processes"]}
    assert names == {10: "python3", 11: "x" * 64, 12: "a?b", sleeper.pid: "sleep", 1 << 22: ""}


def test_simultaneous_readers_share_a_reading_that_is_not_stale(lab: Lab) -> None:
    readings = lab.worker().ask("read_many", 50)
    assert not any(reading["stale"] for reading in readings)
    moments = {reading["devices"][0]["taken_at"] for reading in readings}
    assert len(moments) <= 2


def test_close_shuts_the_library_down(lab: Lab) -> None:
    shutdowns = lab.directory / "shutdowns"
    worker = lab.worker(environment={"GPUMAND_NVML_SHIM_SHUTDOWNS": str(shutdowns)})
    worker.read()
    worker.ask("close")
    assert shutdowns.read_text() == "."
    assert worker.read()["error"].startswith("nvml-error: ")
    assert worker.end() < 5


def test_memory_partition_that_only_version_2_shows_is_not_taken_for_the_device(lab: Lab) -> None:
    lab.shim.devices[0].partition_mib = 4096
    lab.shim.devices[0].compute = {4711: 6000}
    lab.write()
    device = only_device(lab.worker().read())
    assert (device["total_mib"], device["free_mib"]) == (24576, 24576 - 400 - 6000)


def test_partition_that_begins_later_is_noticed_within_thirty_readings(lab: Lab) -> None:
    worker = lab.worker()
    assert only_device(worker.read())["total_mib"] == 24576
    lab.shim.devices[0].partition_mib = 4096
    lab.write()
    totals = [only_device(worker.read())["total_mib"] for _ in range(30)]
    assert (totals[0], totals[-1]) == (4096, 24576)


def test_unit_whose_processes_the_driver_does_not_name_is_found_by_the_kernel(lab: Lab) -> None:
    tree, region = HostTree(lab.directory), "nvidia/00000000:01:00.0/vidmem"
    tree.write("/proc/driver/nvidia/gpus/0000:01:00.0/information", "GPU UUID: \t GPU-a\n")
    dmem = Dmem(tree)
    dmem.capacity({region: 24576 << 20})
    dmem.current("", {region: 9500 << 20})
    dmem.current("system.slice", {region: 9300 << 20})
    dmem.current("system.slice/docker-0123.scope", {region: 9000 << 20})
    dmem.current("system.slice/named.service", {region: 300 << 20})
    lab.shim.devices[0].compute = {4711: 250}
    worker = lab.worker(environment={"GPUMAND_HOST_ROOT": str(lab.directory)})
    for used_mib, units in ((9500, ["docker-0123.scope", "named.service"]), (600, [])):
        lab.shim.devices[0].used_mib = used_mib
        lab.write()
        sample = only_device(worker.read())
        assert [one["unit"] for one in sample["processes"] if one["pid"] == 0] == units
        assert [one["used_mib"] for one in sample["processes"] if one["pid"] == 4711] == [250]
        assert (sample["attribution"], sample["attributed"]) == ("nvml", True)


def test_processes_of_other_pid_namespaces_are_not_attributed(lab: Lab) -> None:
    container = shim_environment(lab.library, lab.text, namespace="pid:[4026532573]")
    lab.shim.devices[0].compute = {os.getpid(): 8000}
    lab.write()
    worker = lab.worker(environment=container)
    device = only_device(worker.read())
    assert [(one["pid"], one["used_mib"]) for one in device["processes"]] == [(os.getpid(), 8000)]
    assert (device["attributed"], device["attribution_gap"]) == (True, "")
    lab.shim.devices[0].compute[_ended_pid()] = 1000
    lab.write()
    device = only_device(worker.read())
    assert (device["processes"], device["attributed"], device["used_mib"]) == ([], False, 9000)


def _ended_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid
