"""Files of the kernel that hang: the reading that waits for one is given up, and the next ones work again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpumand.host.clock import SystemClock
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import HostTree, rx7900xtx
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.several import SeveralSources
from gpumand.vram.threaded import ThreadedSource
from gpumand.vram.xe import XeSource
from tests.unit.vram.dmem_trees import b580_dmem
from tests.unit.vram.scripted_source import nvml
from tests.waiting import DEADLINE_SEC, until_answer

AMD_FILE = "/sys/devices/pci0000:00/0000:00:01.1/0000:03:00.0/mem_info_vram_used"
XE_FILE = "/sys/fs/cgroup/dmem.capacity"


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


@contextmanager
def giving_up_soon(source: ThreadedSource) -> Iterator[None]:
    """While a file hangs. Other readings have time, or those of a busy machine would count as hanging."""
    thread = source._thread
    patience_sec, thread._timeout_sec = thread._timeout_sec, 0.1
    yield
    thread._timeout_sec = patience_sec


async def until_read(source: ThreadedSource) -> None:
    async def works() -> bool:
        return not (await source.read()).error

    await until_answer(works, "the readings work again")


async def test_hanging_file_of_an_amd_card_is_reported_and_the_devices_stay_listed(tree: HostTree) -> None:
    source = AmdgpuSource(FakeClock(start_sec=1000.0), rx7900xtx(tree).root, call_timeout_sec=DEADLINE_SEC)
    assert (await source.read()).error == ""
    threads = threading.active_count()
    tree.fifo(AMD_FILE)
    with giving_up_soon(source):
        for _ in range(3):
            reading = await source.read()
            assert reading.error.startswith("sysfs-hangs: ")
            assert [(one.uuid, one.free_mib) for one in reading.devices] == [("AMD-5e1f0c3a9b7d2468", None)]
    assert threading.active_count() <= threads, "no thread was started for a reading that hangs"
    tree.release(AMD_FILE)
    tree.write(AMD_FILE, 15569256448)
    await until_read(source)
    [sample] = (await source.read()).devices
    assert sample.free_mib == 9712
    await source.close()


async def test_hanging_file_of_an_intel_card_is_reported_and_recovers(tree: HostTree) -> None:
    b580_dmem(tree)
    source = XeSource(SystemClock(), tree.root, call_timeout_sec=DEADLINE_SEC)
    assert not (await source.read()).error
    tree.fifo(XE_FILE)
    with giving_up_soon(source):
        hanging = await source.read()
    assert hanging.error.startswith("sysfs-hangs: ")
    assert [sample.total_mib for sample in hanging.devices] == [None]
    tree.release(XE_FILE)
    b580_dmem(tree)
    await until_read(source)
    await source.close()


async def test_source_that_hangs_does_not_delay_the_next_readings_of_others(tree: HostTree) -> None:
    clock = FakeClock()
    amd = AmdgpuSource(clock, rx7900xtx(tree).root, call_timeout_sec=DEADLINE_SEC)
    source = SeveralSources([nvml(), amd], clock)
    assert (await source.read()).devices[1].free_mib == 9712
    tree.fifo(AMD_FILE)
    with giving_up_soon(amd):
        for _ in range(2):
            reading = await source.read()
            assert reading.error == ""
            assert reading.devices[0].free_mib == 24000
            assert reading.devices[1].error.startswith("sysfs-hangs: ")
        # The watchdog must not restart a daemon that serves the other cards.
        assert source.busy_sec == 0.0
    assert source.thread_alive
    tree.release(AMD_FILE)
    await source.close()
