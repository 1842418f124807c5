"""A Jetson whose JetPack has no NVML: host RAM is read, and what is unknown is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.domain.device import Pool, Reading
from gpumand.domain.gpu_settings import DeviceOptions, GpuSettings
from gpumand.domain.unread_devices import Access, access
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import HostTree
from gpumand.vram import make_source
from gpumand.vram.nvml import NvmlSource
from gpumand.vram.nvml_host import NvmlHost
from gpumand.vram.nvml_library import LibraryFailed, NvmlLibrary

MISSING = "nvml-library-missing: libnvidia-ml.so.1 is not installed"


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostTree:
    """An Orin Nano with 8 GB, on which NVML cannot be loaded."""

    def start(library: NvmlLibrary) -> None:
        word, _, line = MISSING.partition(": ")
        raise LibraryFailed(word, line)

    monkeypatch.setattr(NvmlLibrary, "start", start)
    tree = HostTree(tmp_path)
    tree.write("/proc/device-tree/compatible", "nvidia,p3767-0003\0nvidia,tegra234\0")
    tree.write("/proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    tree.meminfo(7802988, 6291456)
    return tree


async def reading(tree: HostTree, source: str = "auto", reserve_mib: int | None = None) -> Reading:
    device = (("TEGRA", DeviceOptions(reserve_mib=reserve_mib)),) if reserve_mib is not None else ()
    one = make_source(GpuSettings(source=source, device=device), FakeClock(start_sec=5.0), tree.root)
    try:
        await one.read()
        return await one.read()  # also while NVML is not tried again yet
    finally:
        await one.close()


@pytest.mark.parametrize("source", ["auto", "nvml"])
async def test_free_memory_is_that_of_the_host(jetson: HostTree, source: str) -> None:
    found = await reading(jetson, source)
    assert found.error == ""
    [sample] = found.devices
    assert (sample.total_mib, sample.used_mib, sample.free_mib) == (7620, 1476, 2048)
    assert (sample.name, sample.pool, sample.integrated) == (
        "NVIDIA Jetson Orin Nano Developer Kit",
        Pool.UNIFIED,
        True,
    )
    assert access(sample) is Access.READ, "loads are checked"


async def test_what_is_unknown_is_said_and_proves_nothing(jetson: HostTree) -> None:
    [sample] = (await reading(jetson)).devices
    assert sample.held_by("ollama") is None
    assert not sample.proves_release
    what, _, fix = sample.attribution_gap.partition(". ")
    assert "JetPack 5 and older have none" in what
    assert fix.startswith("Declare vram_resident_mib for each consumer, and give it a unit or container")


async def test_reserve_of_the_host_can_be_set(jetson: HostTree) -> None:
    [sample] = (await reading(jetson, reserve_mib=1024)).devices
    assert sample.free_mib == 5120


async def test_host_ram_that_cannot_be_read_is_a_failure(jetson: HostTree) -> None:
    jetson.write("/proc/meminfo", "")
    found = await reading(jetson, "nvml")
    assert (found.devices, found.error) == ((), MISSING)


async def test_other_hosts_without_the_library_have_no_such_gpu(jetson: HostTree) -> None:
    jetson.write("/proc/device-tree/compatible", "raspberrypi,5-model-b\0")
    source = NvmlSource(FakeClock(), jetson.root)
    found = await source.read()
    await source.close()
    assert (found.devices, found.error) == ((), MISSING)


def test_driver_for_its_displays_does_not_make_the_board_unreadable(jetson: HostTree) -> None:
    jetson.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  35.4.1\n")
    assert NvmlHost(jetson.root).explained(MISSING) == MISSING
