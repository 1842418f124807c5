"""The choice of sources by the host's drivers, and the devices for consumers without one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.domain.device import Reading, Sample, default_devices
from gpumand.domain.gpu_settings import DeviceOptions, GpuSettings
from gpumand.domain.unread_devices import Access, access
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import ARC_B580, HostTree, mixed_igpu, rx7900xtx
from gpumand.vram import make_source
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.auto import AutoSource
from gpumand.vram.detection import available_sources
from gpumand.vram.several import SeveralSources
from tests.unit.vram.scripted_source import NO_LIBRARY, RTX, ScriptedSource, nvml


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


# -- the drivers of a host ---------------------------------------------------------------------------------------------


def nvidia(tree: HostTree) -> None:
    tree.write("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06\n")


def orin(tree: HostTree) -> None:
    tree.write("/proc/device-tree/compatible", b"nvidia,p3767-0003\0nvidia,tegra234\0")


def intel(tree: HostTree) -> None:
    tree.add_card(ARC_B580)


def wsl(tree: HostTree) -> None:
    tree.write("/dev/dxg", "")


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ((), ()),
        ((nvidia,), ("nvml",)),
        ((orin,), ("nvml",)),
        ((wsl,), ("nvml",)),
        ((rx7900xtx,), ("amdgpu",)),
        ((nvidia, mixed_igpu), ("nvml", "amdgpu")),
        ((intel,), ("xe",)),
        ((nvidia, intel), ("nvml", "xe")),
    ],
)
def test_the_sources_of_a_host(
    tree: HostTree, parts: tuple[Callable[[HostTree], object], ...], found: tuple[str, ...]
) -> None:
    for part in parts:
        part(tree)
    assert available_sources(tree.root) == found


class Auto:
    """An automatic source on a fake host, with a scripted NVML."""

    def __init__(self, tree: HostTree, reading: Reading) -> None:
        self.clock = FakeClock()
        self.nvml = nvml(reading)
        self.made: list[str] = []
        self.source = AutoSource(
            self._make, ("nvml", "amdgpu"), self.clock, root=tree.root, total_mib=24564, options=()
        )
        self._root = tree.root

    def _make(self, name: str) -> ScriptedSource | AmdgpuSource:
        self.made.append(name)
        return self.nvml if name == "nvml" else AmdgpuSource(self.clock, self._root)


async def test_a_plain_nvidia_host_gets_nvmls_reading_unchanged(tree: HostTree) -> None:
    nvidia(tree)
    auto = Auto(tree, Reading((RTX,)))
    for _ in range(3):
        assert await auto.source.read() == Reading((RTX,))
    assert (auto.made, auto.nvml.reads) == (["nvml"], 3)
    await auto.source.close()


async def test_a_plain_amd_host_has_its_card_as_device_0(tree: HostTree) -> None:
    rx7900xtx(tree)
    auto = Auto(tree, NO_LIBRARY)
    reading = await auto.source.read()
    assert [(one.index, one.source, one.free_mib) for one in reading.devices] == [(0, "amdgpu", 9712)]
    assert (auto.made, reading.error) == (["amdgpu"], "")
    await auto.source.close()


async def test_a_host_without_any_driver_counts_declared_footprints_and_says_how(tree: HostTree) -> None:
    auto = Auto(tree, NO_LIBRARY)
    readings = [await auto.source.read() for _ in range(3)]
    assert {reading.error for reading in readings} == {readings[0].error}
    assert readings[0].error.startswith("no-source: ")
    assert access(readings[0].devices[0]) is Access.NO_SOURCE
    assert [(one.index, one.source, one.total_mib) for one in readings[0].devices] == [(0, "none", 24564)]
    await auto.source.close()


NOT_LOADED = Reading(error="driver-not-loaded: the module is not loaded")


async def test_an_installed_library_without_its_driver_is_reported_as_by_nvml(tree: HostTree) -> None:
    tree.add_nvidia_card()
    auto = Auto(tree, NOT_LOADED)
    assert await auto.source.read() == NOT_LOADED
    await auto.source.close()


@pytest.mark.parametrize("driver", ["vfio-pci", "nouveau", None])
@pytest.mark.parametrize("error", ["driver-not-loaded: the module is not loaded", "nvml-error: Unknown Error (999)"])
async def test_the_library_alone_is_no_source_on_a_host_whose_driver_has_no_card(
    tree: HostTree, driver: str | None, error: str
) -> None:
    tree.write("/sys/bus/pci/devices/.keep", "")
    if driver is not None:
        tree.add_nvidia_card(driver=driver)
    auto = Auto(tree, Reading(error=error))
    reading = await auto.source.read()
    assert reading.error.startswith("no-source: ")
    assert access(reading.devices[0]) is Access.NO_SOURCE
    await auto.source.close()


async def test_a_driver_that_hangs_is_one_even_where_no_card_is_listed(tree: HostTree) -> None:
    tree.write("/sys/bus/pci/devices/.keep", "")
    auto = Auto(tree, Reading(error="nvml-hangs: 5 s"))
    assert (await auto.source.read()).error == "nvml-hangs: 5 s"
    await auto.source.close()


async def test_a_card_without_its_module_keeps_the_first_place_beside_the_processors_gpu(tree: HostTree) -> None:
    mixed_igpu(tree)
    tree.add_nvidia_card()
    tree.write("/etc/ld.so.cache", b"ld.so-1.7.0\0libnvidia-ml.so.1\0/usr/lib/libnvidia-ml.so.1\0\xff")
    auto = Auto(tree, NOT_LOADED)
    devices = (await auto.source.read()).devices
    assert [(one.index, one.source, access(one)) for one in devices] == [
        (0, "nvml", Access.NEVER_READ),
        (10000, "amdgpu", Access.READ),
    ]
    # A CUDA consumer waits for its card instead of taking the processor's GPU, and indices are those of every boot.
    assert default_devices(devices) == (0,)
    auto.nvml.reading = Reading((RTX,))
    assert [one.index for one in (await auto.source.read()).devices] == [0, 10000]
    await auto.source.close()


@pytest.mark.parametrize("driver", ["vfio-pci", "nouveau"])
async def test_a_card_that_another_driver_has_takes_no_place(tree: HostTree, driver: str) -> None:
    rx7900xtx(tree)
    tree.add_nvidia_card(driver=driver)
    tree.write("/etc/ld.so.cache", b"libnvidia-ml.so.1\0")
    auto = Auto(tree, NOT_LOADED)
    assert [(one.index, one.source) for one in (await auto.source.read()).devices] == [(0, "amdgpu")]
    await auto.source.close()


async def test_a_card_whose_library_is_not_installed_takes_no_place(tree: HostTree) -> None:
    rx7900xtx(tree)
    tree.add_nvidia_card()
    tree.write("/etc/ld.so.cache", b"libdrm.so.2\0")
    auto = Auto(tree, NO_LIBRARY)
    assert [(one.index, one.source) for one in (await auto.source.read()).devices] == [(0, "amdgpu")]
    await auto.source.close()


async def test_a_driver_that_is_loaded_first_after_the_start_becomes_the_first_source(tree: HostTree) -> None:
    auto = Auto(tree, NO_LIBRARY)
    await auto.source.read()
    rx7900xtx(tree)
    assert (await auto.source.read()).devices[0].source == "none", "the PCI bus is not looked at with every reading"
    await auto.clock.advance(5.0)
    assert [(one.index, one.source) for one in (await auto.source.read()).devices] == [(0, "amdgpu")]
    assert auto.nvml.closed == 1
    await auto.source.close()


async def test_nvmls_driver_that_is_loaded_after_the_start_keeps_the_source_that_was_tried(tree: HostTree) -> None:
    auto = Auto(tree, NO_LIBRARY)
    await auto.source.read()
    nvidia(tree)
    auto.source.retry()  # a request that waits does not wait for the next search
    auto.nvml.reading = Reading((RTX,))
    assert await auto.source.read() == Reading((RTX,))
    assert (auto.made, auto.nvml.closed) == (["nvml"], 0)
    await auto.source.close()


async def test_a_driver_that_is_found_later_does_not_move_the_devices_found_before(tree: HostTree) -> None:
    mixed_igpu(tree)
    auto = Auto(tree, Reading((RTX,)))
    assert [one.index for one in (await auto.source.read()).devices] == [0]
    nvidia(tree)
    assert [one.index for one in (await auto.source.read()).devices] == [0]
    await auto.clock.advance(60.0)
    devices = (await auto.source.read()).devices
    assert [(one.index, one.source) for one in devices] == [(0, "amdgpu"), (10000, "nvml")]
    # The card is preferred to the processor's GPU all the same.
    assert default_devices(devices) == (10000,)
    await auto.source.close()


async def test_several_readings_at_once_find_each_source_once(tree: HostTree) -> None:
    rx7900xtx(tree)
    auto = Auto(tree, NO_LIBRARY)
    readings = await asyncio.gather(*(auto.source.read() for _ in range(5)))
    assert auto.made == ["amdgpu"]
    assert {len(reading.devices) for reading in readings} == {1}
    await auto.source.close()


async def test_the_sources_found_are_logged_once(tree: HostTree, caplog: pytest.LogCaptureFixture) -> None:
    rx7900xtx(tree)
    auto = Auto(tree, NO_LIBRARY)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            await auto.source.read()
    assert [record.message for record in caplog.records] == ["GPUs are read by: amdgpu"]
    await auto.source.close()


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (GpuSettings(), AutoSource),
        (GpuSettings("amdgpu"), AmdgpuSource),
        (GpuSettings(("simulated", "amdgpu")), SeveralSources),
        (GpuSettings("amdgpu", device=(("PCI-0000:03:00.0", DeviceOptions(ignore=True)),)), SeveralSources),
    ],
)
async def test_the_configured_sources_are_created(tree: HostTree, settings: GpuSettings, kind: type[object]) -> None:
    source = make_source(settings, FakeClock(), tree.root)
    assert type(source) is kind
    await source.close()


# -- the devices for consumers without one -----------------------------------------------------------------------------

IGPU = replace(RTX, index=10000, uuid="PCI-0000:0c:00.0", source="amdgpu", integrated=True, free_mib=31965)
RADEON = replace(RTX, index=10001, uuid="AMD-1", source="amdgpu")


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([RTX], (0,)),
        ([RTX, replace(RTX, index=1)], (0, 1)),
        ([RTX, IGPU], (0,)),
        ([RTX, IGPU, RADEON], (0,)),
        ([IGPU, RADEON], (10001,)),
        ([IGPU], (10000,)),
        ([replace(IGPU, index=0), replace(RADEON, index=1)], (1,)),
        ([replace(RTX, index=100), replace(RTX, index=1606)], (100, 1606)),
        ([], ()),
    ],
)
def test_consumers_without_a_device_use_the_first_sources_cards(
    samples: list[Sample], expected: tuple[int, ...]
) -> None:
    assert default_devices(samples) == expected
