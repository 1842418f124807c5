"""Several sources as one: indices, failures of one of them, and when each is opened again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.domain.device import Reading, Sample, default_devices
from gpumand.domain.driver_power import NO_POWER, DriverPower
from gpumand.domain.gpu_settings import DeviceOptions
from gpumand.domain.unread_devices import Access, access
from gpumand.ports import Retrying
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import HostTree, mixed_igpu, rx7900xtx
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.nvml import NvmlSource
from gpumand.vram.several import SeveralSources
from tests.unit.vram.scripted_source import RTX, ScriptedSource, nvml


class ScriptedDriver(ScriptedSource):
    """A source that keeps a driver open."""

    released = 0

    async def release_driver(self) -> None:
        self.released += 1

    def rest_driver(self, *, resting: bool) -> None:
        raise AssertionError("its readings are left out by others")

    async def power(self) -> DriverPower:
        return NO_POWER


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


async def test_an_nvidia_card_and_the_processors_gpu_keep_their_own_indices(tree: HostTree) -> None:
    clock = FakeClock()
    source = SeveralSources([nvml(), AmdgpuSource(clock, mixed_igpu(tree).root)], clock)
    reading = await source.read()
    assert reading.error == ""
    assert [(one.index, one.source, one.integrated) for one in reading.devices] == [
        (0, "nvml", False),
        (10000, "amdgpu", True),
    ]
    assert reading.devices[0] == RTX
    assert source.name == "nvml,amdgpu"
    await source.close()


async def test_one_source_that_fails_leaves_the_others_readable_and_keeps_its_place(tree: HostTree) -> None:
    clock = FakeClock(start_sec=5.0)
    failing = nvml(Reading(error="driver-not-loaded: no driver"))
    source = SeveralSources([failing, AmdgpuSource(clock, rx7900xtx(tree).root)], clock)
    reading = await source.read()
    assert reading.error == ""
    placeholder, radeon = reading.devices
    assert (placeholder.index, placeholder.uuid, placeholder.free_mib) == (0, "", None)
    assert placeholder.error == "unavailable: driver-not-loaded: no driver"
    assert (radeon.index, radeon.free_mib) == (10000, 9712)
    # A consumer of the NVIDIA card is not placed on the Radeon meanwhile.
    assert default_devices(reading.devices) == (0,)
    await source.close()


@pytest.mark.parametrize("word", ["nvml-library-missing", "no-source"])
async def test_a_missing_driver_beside_a_card_gives_no_loads_without_a_check(tree: HostTree, word: str) -> None:
    clock = FakeClock()
    source = SeveralSources([nvml(Reading(error=f"{word}: x")), AmdgpuSource(clock, rx7900xtx(tree).root)], clock)
    assert [access(sample) for sample in (await source.read()).devices] == [Access.NEVER_READ, Access.READ]
    await source.close()


async def test_a_driver_that_hangs_from_the_start_is_waited_for() -> None:
    source = SeveralSources([nvml(Reading(error="nvml-hangs: 5 s")), nvml()], FakeClock())
    assert access((await source.read()).devices[0]) is Access.HANGS


async def test_the_failure_of_the_only_source_is_passed_on_unchanged() -> None:
    failure = Reading(error="driver-not-loaded: no driver")
    assert await SeveralSources([nvml(failure)], FakeClock()).read() == failure


async def test_only_a_failure_of_all_sources_is_one_of_the_whole() -> None:
    source = SeveralSources([nvml(Reading(error="a: 1")), nvml(Reading(error="b: 2"))], FakeClock())
    assert (await source.read()).error == "a: 1; b: 2"


async def test_a_reading_of_some_devices_reads_only_their_sources() -> None:
    one, other = nvml(), nvml(Reading(error="b: 2"))
    source = SeveralSources([one, other], FakeClock())
    assert [sample.index for sample in (await source.read((0,))).devices] == [0]
    assert (one.only, one.reads, other.reads) == ((0,), 1, 0)
    reading = await source.read((10003,))
    assert (other.only, one.reads, other.reads) == ((3,), 1, 1)
    # The sources that were not read may work.
    assert (reading.error, reading.devices) == ("", ())


BESIDE = Sample(0, "PCI-0000:0c:00.0", "iGPU", "amdgpu", 32000, 500, 31500, integrated=True)


async def test_a_driver_that_rests_is_not_read_and_its_devices_stay_listed() -> None:
    driver, other = ScriptedDriver("nvml", Reading((RTX,))), ScriptedSource("amdgpu", Reading((BESIDE,)))
    source = SeveralSources([driver, other], FakeClock())
    source.rest_driver(resting=True)
    await source.read()
    assert (driver.reads, other.reads) == (1, 1), "devices that are not known yet are read"

    other.reading = Reading((replace(BESIDE, used_mib=9000),))
    reading = await source.read()
    assert [(one.index, one.used_mib) for one in reading.devices] == [(0, 564), (10000, 9000)]
    assert (driver.reads, other.reads) == (1, 2)

    await source.read((0,))
    assert driver.reads == 2, "a reading that names the device reads it"
    source.rest_driver(resting=False)
    await source.read()
    assert driver.reads == 3


async def test_a_failure_beside_a_driver_that_rests_is_that_of_its_devices() -> None:
    driver, other = ScriptedDriver("nvml", Reading((RTX,))), ScriptedSource("amdgpu", Reading((BESIDE,)))
    source = SeveralSources([driver, other], FakeClock())
    await source.read()
    source.rest_driver(resting=True)
    failed = replace(BESIDE, error="amdgpu-hangs: 5 s", used_mib=None, free_mib=None)
    other.reading = Reading((failed,), error="amdgpu-hangs: 5 s")
    reading = await source.read()
    assert [(one.index, one.error) for one in reading.devices] == [(0, ""), (10000, "amdgpu-hangs: 5 s")]
    assert reading.error == ""


async def test_a_source_without_any_device_beside_a_driver_that_rests_keeps_its_place() -> None:
    driver, other = ScriptedDriver("nvml", Reading((RTX,))), ScriptedSource("xe", Reading(error="xe-hangs: 5 s"))
    source = SeveralSources([driver, other], FakeClock())
    stand_ins = [one for one in (await source.read()).devices if one.index == 10000]
    assert [one.error for one in stand_ins] == ["xe-hangs: 5 s"]
    source.rest_driver(resting=True)
    reading = await source.read()
    assert driver.reads == 1
    assert [(one.index, one.error) for one in reading.devices] == [(0, ""), (10000, "xe-hangs: 5 s")]
    assert max(one.taken_at for one in reading.devices) == FakeClock().monotonic(), "else it counts as an old reading"


async def test_a_driver_without_other_devices_is_always_read() -> None:
    driver = ScriptedDriver("nvml", Reading((RTX,)))
    source = SeveralSources([driver], FakeClock())
    source.rest_driver(resting=True)
    await source.read()
    await source.read()
    assert driver.reads == 2


async def test_a_source_that_is_found_later_does_not_open_a_driver_that_rests() -> None:
    driver, other = ScriptedDriver("nvml", Reading((RTX,))), ScriptedSource("amdgpu", Reading((BESIDE,)))
    source = SeveralSources([driver, other], FakeClock())
    await source.read()
    source.rest_driver(resting=True)
    source.use([driver, other, ScriptedSource("xe", Reading((replace(BESIDE, uuid="PCI-2"),)))])
    reading = await source.read()
    assert [one.index for one in reading.devices] == [0, 10000, 20000]
    assert driver.reads == 1


async def test_ignored_devices_are_not_listed(tree: HostTree) -> None:
    clock = FakeClock()
    options = (("0000:0c:00.0", DeviceOptions(ignore=True)),)
    source = SeveralSources([nvml(), AmdgpuSource(clock, mixed_igpu(tree).root)], clock, options)
    assert [one.index for one in (await source.read()).devices] == [0]
    everything = (*options, ("GPU-1", DeviceOptions(ignore=True)))
    source = SeveralSources(source.sources, clock, everything)
    assert (await source.read()).error.startswith("no-devices: ")
    await source.close()


async def test_reopening_and_a_new_driver_library_concern_all_sources() -> None:
    one, other = nvml(), nvml()
    source = SeveralSources([one, other], FakeClock())
    assert [source.needs_new_process, source.thread_alive] == [False, True]
    other.needs_new_process, other.thread_alive = True, False
    assert [source.needs_new_process, source.thread_alive] == [True, False]
    source.reopen()
    assert (one.reopened, other.reopened) == (1, 1)


async def test_only_the_source_that_has_failed_is_opened_again_early(tree: HostTree) -> None:
    """A request for an NVIDIA card does not wait for NVML's next attempt because a Radeon works."""
    clock = FakeClock()
    failing, radeon = NvmlSource(clock, tree.root), AmdgpuSource(clock, rx7900xtx(tree).root)
    reopened: list[str] = []
    failing.reopen = lambda: reopened.append("nvml")  # type: ignore[method-assign]
    failing._session.reopen = lambda: reopened.append("session")  # type: ignore[method-assign]
    radeon.reopen = lambda: reopened.append("amdgpu")  # type: ignore[method-assign]
    source = SeveralSources([failing, radeon], clock)
    assert isinstance(source, Retrying)
    source.retry()
    assert reopened == [], "nothing has failed yet"

    failing._session._last_error = "driver-not-loaded: the module is not loaded"
    source.retry()
    assert reopened == ["session"]
    await source.close()
