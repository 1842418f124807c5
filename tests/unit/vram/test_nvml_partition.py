"""The guard against NVML readings that show only a memory partition."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from gpumand.testing.host_tree import HostTree
from gpumand.vram.nvml_library import CallFailed, Code
from gpumand.vram.nvml_memory import Memory
from gpumand.vram.nvml_partition import INTERVAL, PartitionGuard, has_own_limits, may_partition
from tests.unit.vram.dmem_trees import MIB, NVIDIA, Dmem

BDF = "0000:01:00.0"
WHOLE, PART = Memory(24564, 6000, 18564), Memory(4096, 4000, 96)
OWN = "system.slice/gpumand.service"


class Gpu:
    """A GPU whose two versions of memory information a test sets."""

    def __init__(self, root: Path, v1: Memory = WHOLE, v2: Memory = WHOLE) -> None:
        self.guard = PartitionGuard(root)
        self.v1, self.v2 = v1, v2
        self.calls: list[str] = []
        self.failure: CallFailed | None = None
        self.later_v2: Memory | None = None

    def read_v1(self) -> Memory:
        self.calls.append("v1")
        if self.failure:
            raise self.failure
        return self.v1

    def read_v2(self) -> Memory:
        self.calls.append("v2")
        return self.later_v2 or self.v2

    def read(self, bdf: str = BDF) -> Memory:
        return self.guard.correct("GPU-0", bdf, self.v2, self.read_v1, self.read_v2)


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


def with_dmem(tree: HostTree, used_mib: int = 6100) -> Dmem:
    dmem = Dmem(tree)
    dmem.capacity({NVIDIA: 24563 * MIB, "nvidia/00000000:01:00.0/gpu0": 5 * MIB})
    dmem.current("", {NVIDIA: used_mib * MIB})
    tree.write("/proc/self/cgroup", f"0::/{OWN}\n")
    return dmem


def test_plain_host_is_compared_once_in_thirty_samples(tree: HostTree) -> None:
    gpu = Gpu(tree.root)
    assert all(gpu.read() is WHOLE for _ in range(3 * INTERVAL))
    assert gpu.calls == ["v1"] * 3


def test_driver_without_partitions_makes_no_further_call(tree: HostTree) -> None:
    tree.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module  580.95.05  Release\n")
    gpu = Gpu(tree.root, v2=PART)
    assert all(gpu.read() is PART for _ in range(2 * INTERVAL))
    assert gpu.calls == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  615.71.09  Tue\nGCC version: 12.2.0\n", True),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  595.45.04  Tue\nGCC version: 12.2.0\n", False),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  620.10  Tue\n", True),
        ("", True),
        (None, True),
    ],
)
def test_drivers_that_may_have_partitions(tree: HostTree, text: str | None, expected: bool) -> None:
    if text is not None:
        tree.write("/proc/driver/nvidia/version", text)
    assert may_partition(tree.root) is expected


def test_whole_device_comes_from_the_kernel(tree: HostTree) -> None:
    with_dmem(tree)
    gpu = Gpu(tree.root, v2=PART)
    assert gpu.read() == Memory(24563, 6100, 24563 - 6100)
    gpu.calls.clear()
    assert gpu.read() == Memory(24563, 6100, 24563 - 6100)
    assert gpu.calls == [], "the files are enough until the next comparison"


@pytest.mark.parametrize("bdf", ["", "0000:02:00.0"])
def test_version_1_is_used_where_the_kernel_does_not_know_the_card(tree: HostTree, bdf: str) -> None:
    with_dmem(tree)
    assert Gpu(tree.root, v2=PART).read(bdf) == WHOLE


@pytest.mark.parametrize("used", ["max", ""])
def test_version_1_is_used_where_the_kernel_has_no_number(tree: HostTree, used: str) -> None:
    with_dmem(tree).current("", {NVIDIA: used})
    assert Gpu(tree.root, v2=PART).read() == WHOLE


def test_version_1_is_used_without_the_controller(tree: HostTree) -> None:
    gpu = Gpu(tree.root, v2=PART)
    assert gpu.read() == WHOLE
    gpu.v1 = Memory(24564, 7000, 17564)
    assert gpu.read() == gpu.v1


def test_protection_of_others_that_makes_free_memory_look_small_is_noticed(tree: HostTree) -> None:
    assert Gpu(tree.root, v2=Memory(24564, 6000, 4000)).read() == WHOLE


def test_memory_that_is_allocated_between_the_calls_is_no_partition(tree: HostTree) -> None:
    gpu = Gpu(tree.root, v1=Memory(24564, 10000, 14564), v2=Memory(24564, 9000, 15564))
    gpu.later_v2 = Memory(24564, 11000, 13564)
    assert gpu.read() is gpu.v2
    assert gpu.calls == ["v1", "v2"]


@pytest.mark.parametrize("mib", [0, 256])
def test_small_differences_are_none(tree: HostTree, mib: int) -> None:
    v2 = Memory(24564 - mib, 6000, 18564 - mib)
    assert Gpu(tree.root, v2=v2).read() is v2


def test_partition_that_ends_is_noticed_at_the_next_comparison(tree: HostTree) -> None:
    with_dmem(tree)
    gpu = Gpu(tree.root, v2=PART)
    gpu.read()
    gpu.v2 = WHOLE
    found = [gpu.read() for _ in range(INTERVAL)]
    assert found[-1] is WHOLE


@pytest.mark.parametrize(
    ("cgroup", "file", "text"),
    [
        (OWN, "dmem.max", f"{NVIDIA} 4294967296\n"),
        ("system.slice", "dmem.max", f"{NVIDIA} 4294967296\n"),
        (OWN, "dmem.low", f"{NVIDIA} 1\n"),
        ("system.slice", "dmem.min", f"{NVIDIA} max\n"),
    ],
)
def test_limit_of_an_own_cgroup_is_compared_at_once(tree: HostTree, cgroup: str, file: str, text: str) -> None:
    with_dmem(tree)
    gpu = Gpu(tree.root)
    for _ in range(5):
        gpu.read()
    gpu.v2 = PART
    assert gpu.read() is PART
    tree.write(f"/sys/fs/cgroup/{cgroup}/{file}", text)
    assert has_own_limits(tree.root)
    assert gpu.read() == Memory(24563, 6100, 24563 - 6100)
    gpu.v2 = WHOLE
    tree.remove(f"/sys/fs/cgroup/{cgroup}/{file}")
    assert gpu.read() is WHOLE


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("dmem.max", f"{NVIDIA} max\n"),
        ("dmem.max", "drm/0000:03:00.0/vram 5\n"),
        ("dmem.min", f"{NVIDIA} 0\n"),
        ("dmem.low", ""),
    ],
)
def test_what_is_no_limit(tree: HostTree, file: str, text: str) -> None:
    with_dmem(tree)
    tree.write(f"/sys/fs/cgroup/{OWN}/{file}", text)
    tree.write(f"/sys/fs/cgroup/system.slice/other.service/{file}", f"{NVIDIA} 77\n")
    assert not has_own_limits(tree.root)


def test_failure_of_the_comparison_leaves_the_reading(tree: HostTree) -> None:
    gpu = Gpu(tree.root, v2=PART)
    gpu.failure = CallFailed(Code.UNKNOWN, "unknown")
    assert gpu.read() is PART


def test_failure_while_partitioned_is_no_reading(tree: HostTree) -> None:
    gpu = Gpu(tree.root, v2=PART)
    gpu.read()
    gpu.failure = CallFailed(Code.UNKNOWN, "unknown")
    with pytest.raises(CallFailed):
        gpu.read()


def test_device_without_memory_of_its_own_is_left_alone(tree: HostTree) -> None:
    gpu = Gpu(tree.root, v2=Memory(None, None, None))
    assert gpu.read() is gpu.v2
    assert gpu.calls == []


def test_partition_is_logged_once(tree: HostTree, caplog: pytest.LogCaptureFixture) -> None:
    with_dmem(tree)
    gpu = Gpu(tree.root, v2=PART)
    with caplog.at_level(logging.WARNING):
        for _ in range(2 * INTERVAL):
            gpu.read()
    said = messages(caplog.messages)
    assert len(said) == 1
    assert "RmMemacctMode=0" in said[0]


def messages(logged: Iterable[str]) -> list[str]:
    return [one for one in logged if one.startswith("figures-partitioned: ")]
