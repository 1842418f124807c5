"""GPUs with MIG enabled: the real binding with a fake library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gpumand.vram.nvml import LAYOUT_SEC
from tests.integration.vram.conftest import Lab
from tests.shim.shimfile import ShimDevice, ShimInstance


def mig_gpu(*instances: ShimInstance, **more: Any) -> ShimDevice:
    return ShimDevice("GPU-mig", "NVIDIA A100", total_mib=81920, mig=1, instances=list(instances), **more)


def instance(slot: int, **more: Any) -> ShimInstance:
    """Return a MIG device that is the only one in its GPU instance."""
    defaults: dict[str, Any] = {"name": "NVIDIA A100 MIG 3g.40gb", "total_mib": 40192, "instance": slot + 1}
    return ShimInstance(f"MIG-{slot}", slot=slot, **(defaults | more))


def devices_of(reading: Any) -> dict[int, Any]:
    assert reading["error"] == ""
    return {one["index"]: one for one in reading["devices"]}


def test_each_instance_is_a_device_and_the_gpu_itself_is_not(lab: Lab) -> None:
    lab.shim.devices.append(mig_gpu(instance(0, compute={10: 1000}), instance(3, reserved_mib=192)))
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()

    found = devices_of(lab.worker().read())

    assert {index: one["uuid"] for index, one in found.items()} == {0: "GPU-a", 200: "MIG-0", 203: "MIG-3", 2: "GPU-b"}
    assert (found[200]["name"], found[200]["total_mib"]) == ("NVIDIA A100 MIG 3g.40gb", 40192)
    assert (found[200]["used_mib"], found[203]["free_mib"]) == (1000, 40000)
    assert [one["pid"] for one in found[200]["processes"]] == [10]
    assert found[203]["processes"] == []
    assert all(one["attributed"] for one in found.values())


def test_missing_graphics_list_of_an_instance_does_not_prevent_attribution(lab: Lab) -> None:
    lab.shim.devices = [mig_gpu(instance(0, compute={10: 1000}, graphics_error=3), instance(1, compute_error=3))]
    lab.write()

    found = devices_of(lab.worker().read())

    assert (found[100]["attributed"], found[101]["attributed"]) == (True, False)


def test_processes_of_other_instances_are_ignored(lab: Lab) -> None:
    """Some drivers list the whole GPU's processes for each of its instances."""
    lab.shim.devices = [mig_gpu(instance(0, compute={10: 1000}, of_other={11: 5000}, used_mib=1000))]
    lab.write()

    assert [one["pid"] for one in devices_of(lab.worker().read())[100]["processes"]] == [10]


def test_compute_instances_that_share_memory_are_one_device(lab: Lab) -> None:
    first, second = instance(0, compute={10: 1000}, instance=5), instance(1, compute={11: 2000}, instance=5)
    first.used_mib = 3000
    lab.shim.devices = [mig_gpu(first, second, instance(2))]
    lab.write()

    found = devices_of(lab.worker().read())

    assert list(found) == [100, 102]
    assert [one["pid"] for one in found[100]["processes"]] == [10, 11]
    assert (found[100]["uuid"], found[100]["used_mib"]) == ("MIG-0", 3000)


def test_instances_without_a_number_are_separate_devices(lab: Lab) -> None:
    lab.shim.devices = [mig_gpu(instance(0, instance_error=3), instance(1, instance_error=13, compute={10: 5}))]
    lab.write()

    found = devices_of(lab.worker().read())

    assert list(found) == [100, 101]
    assert [one["pid"] for one in found[101]["processes"]] == [10]


def test_instances_created_and_destroyed_while_the_driver_runs_are_noticed(lab: Lab) -> None:
    lab.shim.devices = [ShimDevice("GPU-mig", mig=0), ShimDevice("GPU-b")]
    lab.write()
    worker = lab.worker()
    assert list(devices_of(worker.read())) == [0, 1]

    lab.shim.devices[0] = mig_gpu(instance(0), instance(1))
    lab.write()
    assert list(devices_of(worker.read_after(LAYOUT_SEC))) == [100, 101, 1]

    del lab.shim.devices[0].instances[0]
    lab.write()
    assert list(devices_of(worker.read_after(LAYOUT_SEC))) == [101, 1]

    lab.shim.devices[0] = ShimDevice("GPU-mig", mig=0)
    lab.write()
    assert list(devices_of(worker.read_after(LAYOUT_SEC))) == [0, 1]


def test_destroyed_instance_is_gone_with_the_next_reading(lab: Lab) -> None:
    lab.shim.devices = [ShimDevice("GPU-b"), mig_gpu(instance(0), instance(1))]
    lab.write()
    worker = lab.worker()
    assert list(devices_of(worker.read())) == [0, 200, 201]

    del lab.shim.devices[1].instances[1]
    lab.write()

    assert list(devices_of(worker.read())) == [0, 200]


def test_gpu_with_mig_but_without_instances_is_not_a_device(lab: Lab) -> None:
    lab.shim.devices = [mig_gpu(), ShimDevice("GPU-b")]
    lab.write()
    worker = lab.worker()
    assert list(devices_of(worker.read())) == [1]

    lab.shim.devices = [mig_gpu()]
    lab.write()
    reading = worker.read_after(LAYOUT_SEC)

    assert reading["error"] == (
        "no-devices: MIG is enabled on all GPUs, but no MIG instance exists: create one, or disable MIG"
    )
    assert [one["index"] for one in reading["devices"]] == [1], "earlier devices stay listed without readings"
    lab.shim.devices[0].instances.append(instance(0))
    lab.write()
    assert list(devices_of(worker.read_after(60))) == [100]


def test_instance_that_cannot_be_read_has_an_error_and_keeps_its_uuid(lab: Lab) -> None:
    lab.shim.devices = [mig_gpu(instance(0), instance(1))]
    lab.write()
    worker = lab.worker()
    worker.read()

    lab.shim.devices[0].instances[1].memory_error = 4
    lab.write()
    found = devices_of(worker.read())
    assert found[100]["error"] == ""
    assert (found[101]["uuid"], found[101]["free_mib"]) == ("MIG-1", None)
    assert found[101]["error"].startswith("nvml-error: ")

    lab.shim.devices[0].instances[1].memory_error, lab.shim.devices[0].instances[1].handle_error = 0, 4
    lab.write()
    found = devices_of(worker.read_after(LAYOUT_SEC))
    assert (found[101]["uuid"], found[101]["free_mib"]) == ("MIG-1", None)


def test_instances_of_a_gpu_that_fails_stay_listed(lab: Lab) -> None:
    lab.shim.devices = [mig_gpu(instance(0), instance(1))]
    lab.write()
    worker = lab.worker()
    worker.read()

    lab.shim.devices[0].lost = True
    for one in lab.shim.devices[0].instances:
        one.lost = True
    lab.write()
    found = devices_of(worker.read())

    assert {index: (one["uuid"], one["lost"]) for index, one in found.items()} == {
        100: ("MIG-0", True),
        101: ("MIG-1", True),
    }


@pytest.mark.parametrize("code", [2, 3, 13])
def test_gpu_without_mig_support_is_a_device(lab: Lab, code: int) -> None:
    lab.shim.devices = [mig_gpu(instance(0), mig_error=code)]
    lab.write()

    assert list(devices_of(lab.worker().read())) == [0]


def test_library_without_mig_functions_is_supported(lab_of: Callable[..., Lab]) -> None:
    lab = lab_of("nvmlDeviceGetMigMode", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetMaxMigDeviceCount")

    assert list(devices_of(lab.worker().read())) == [0]
