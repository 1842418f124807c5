"""GPUs that are cut into instances: real nvidia-ml-py over a fake library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.vram.conftest import Lab
from tests.shim.shimfile import ShimDevice, ShimInstance


def cut(*instances: ShimInstance, **more: Any) -> ShimDevice:
    return ShimDevice("GPU-cut", "NVIDIA A100", total_mib=81920, mig=1, instances=list(instances), **more)


def instance(slot: int, **more: Any) -> ShimInstance:
    """A MIG device that is alone in its GPU instance."""
    defaults: dict[str, Any] = {"name": "NVIDIA A100 MIG 3g.40gb", "total_mib": 40192, "instance": slot + 1}
    return ShimInstance(f"MIG-{slot}", slot=slot, **(defaults | more))


def devices_of(reading: Any) -> dict[int, Any]:
    assert reading["error"] == ""
    return {one["index"]: one for one in reading["devices"]}


def test_each_instance_is_a_device_and_the_gpu_is_none(lab: Lab) -> None:
    lab.shim.devices.append(cut(instance(0, compute={10: 1000}), instance(3, reserved_mib=192)))
    lab.shim.devices.append(ShimDevice("GPU-b"))
    lab.write()

    found = devices_of(lab.worker().read())

    assert {index: one["uuid"] for index, one in found.items()} == {0: "GPU-a", 200: "MIG-0", 203: "MIG-3", 2: "GPU-b"}
    assert (found[200]["name"], found[200]["total_mib"]) == ("NVIDIA A100 MIG 3g.40gb", 40192)
    assert (found[200]["used_mib"], found[203]["free_mib"]) == (1000, 40000)
    assert [one["pid"] for one in found[200]["processes"]] == [10]
    assert found[203]["processes"] == []
    assert all(one["attributed"] for one in found.values())


def test_nobody_draws_on_an_instance(lab: Lab) -> None:
    lab.shim.devices = [cut(instance(0, compute={10: 1000}, graphics_error=3), instance(1, compute_error=3))]
    lab.write()

    found = devices_of(lab.worker().read())

    assert (found[100]["attributed"], found[101]["attributed"]) == (True, False)


def test_a_process_of_another_instance_is_not_this_ones(lab: Lab) -> None:
    """Some drivers list the whole GPU's processes for each of its instances."""
    lab.shim.devices = [cut(instance(0, compute={10: 1000}, of_other={11: 5000}, used_mib=1000))]
    lab.write()

    assert [one["pid"] for one in devices_of(lab.worker().read())[100]["processes"]] == [10]


def test_compute_instances_that_share_memory_are_one_device(lab: Lab) -> None:
    first, second = instance(0, compute={10: 1000}, instance=5), instance(1, compute={11: 2000}, instance=5)
    first.used_mib = 3000
    lab.shim.devices = [cut(first, second, instance(2))]
    lab.write()

    found = devices_of(lab.worker().read())

    assert list(found) == [100, 102]
    assert [one["pid"] for one in found[100]["processes"]] == [10, 11]
    assert (found[100]["uuid"], found[100]["used_mib"]) == ("MIG-0", 3000)


def test_instances_whose_number_cannot_be_told_are_devices_each(lab: Lab) -> None:
    lab.shim.devices = [cut(instance(0, instance_error=3), instance(1, instance_error=13, compute={10: 5}))]
    lab.write()

    found = devices_of(lab.worker().read())

    assert list(found) == [100, 101]
    assert [one["pid"] for one in found[101]["processes"]] == [10]


def test_instances_come_and_go_while_the_driver_runs(lab: Lab) -> None:
    lab.shim.devices = [ShimDevice("GPU-cut", mig=0), ShimDevice("GPU-b")]
    lab.write()
    worker = lab.worker()
    assert list(devices_of(worker.read())) == [0, 1]

    lab.shim.devices[0] = cut(instance(0), instance(1))
    lab.write()
    assert list(devices_of(worker.read())) == [100, 101, 1]

    del lab.shim.devices[0].instances[0]
    lab.write()
    assert list(devices_of(worker.read())) == [101, 1]

    lab.shim.devices[0] = ShimDevice("GPU-cut", mig=0)
    lab.write()
    assert list(devices_of(worker.read())) == [0, 1]


def test_a_gpu_cut_into_nothing_is_no_device(lab: Lab) -> None:
    lab.shim.devices = [cut(), ShimDevice("GPU-b")]
    lab.write()
    worker = lab.worker()
    assert list(devices_of(worker.read())) == [1]

    lab.shim.devices = [cut()]
    lab.write()
    reading = worker.read()

    assert reading["error"] == "no-devices: the GPUs are cut by MIG, and no instance is made"
    assert [one["index"] for one in reading["devices"]] == [1], "what was seen before stays listed, without figures"
    lab.shim.devices[0].instances.append(instance(0))
    lab.write()
    assert list(devices_of(worker.read_after(60))) == [100]


def test_an_instance_that_may_not_be_read_says_so_and_keeps_its_name(lab: Lab) -> None:
    lab.shim.devices = [cut(instance(0), instance(1))]
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
    found = devices_of(worker.read())
    assert (found[101]["uuid"], found[101]["free_mib"]) == ("MIG-1", None)


def test_instances_of_a_gpu_that_fails_stay_listed(lab: Lab) -> None:
    lab.shim.devices = [cut(instance(0), instance(1))]
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
def test_a_gpu_that_cannot_be_cut_is_itself(lab: Lab, code: int) -> None:
    lab.shim.devices = [cut(instance(0), mig_error=code)]
    lab.write()

    assert list(devices_of(lab.worker().read())) == [0]


def test_a_library_that_knows_nothing_of_mig(lab_of: Callable[..., Lab]) -> None:
    lab = lab_of("nvmlDeviceGetMigMode", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetMaxMigDeviceCount")

    assert list(devices_of(lab.worker().read())) == [0]
