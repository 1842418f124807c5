"""AMD cards on fake hosts: the readings of each kind of host, and what a damaged tree does to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from gpumand.domain.device import Pool, Sample
from gpumand.domain.gpu_settings import DeviceOptions, NamedOptions, PoolChoice
from gpumand.testing.clock import FakeClock
from gpumand.testing.host_tree import (
    RX7900XTX,
    STRIX_HALO,
    HostTree,
    mi300x,
    mixed_igpu,
    rx7900xtx,
    strix_halo,
)
from gpumand.vram import sysfs
from gpumand.vram.amdgpu import AmdgpuSource
from gpumand.vram.sysfs import Card
from tests.waiting import DEADLINE_SEC

FOLDER = "/sys/devices/pci0000:00/0000:00:01.1/0000:03:00.0"


class Host:
    """A fake host with a source that reads it."""

    def __init__(self, root: Path) -> None:
        self.tree = HostTree(root)
        self.clock = FakeClock(start_sec=1000.0)
        self.source = self.new_source()

    def new_source(self, options: NamedOptions = ()) -> AmdgpuSource:
        return AmdgpuSource(self.clock, self.tree.root, options, call_timeout_sec=DEADLINE_SEC)

    async def sample(self) -> Sample:
        reading = await self.source.read()
        assert reading.error == ""
        [sample] = reading.devices
        return sample


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    host = Host(tmp_path)
    yield host
    await host.source.close()


def memory(sample: Sample) -> tuple[int | None, int | None, int | None]:
    return sample.total_mib, sample.used_mib, sample.free_mib


async def test_a_desktop_card_with_a_model_of_rocm(host: Host) -> None:
    rx7900xtx(host.tree)
    sample = await host.sample()
    assert memory(sample) == (24560, 14848, 9712)
    assert (sample.index, sample.uuid, sample.source) == (0, "AMD-5e1f0c3a9b7d2468", "amdgpu")
    assert sample.names == {"0", "AMD-5e1f0c3a9b7d2468", "0000:03:00.0", "PCI-0000:03:00.0"}
    assert [(process.pid, process.used_mib) for process in sample.processes] == [(4711, 13100)]
    assert (sample.pool, sample.integrated, sample.asleep, sample.proves_release) == (Pool.VRAM, False, False, True)
    # 1748 MiB are held by programs that KFD does not list, so that an unlisted consumer may be one of them.
    assert (sample.attribution, sample.attributed) == ("kfd", False)


async def test_an_apu_uses_host_ram_bounded_by_what_is_available(host: Host) -> None:
    strix_halo(host.tree)
    sample = await host.sample()
    assert memory(sample) == (122880, 24175, 95232 - 4096)
    assert [(process.pid, process.used_mib) for process in sample.processes] == [(5200, 24666)]
    assert (sample.pool, sample.integrated, sample.uuid) == (Pool.UNIFIED, True, "PCI-0000:c6:00.0")
    assert sample.attributed


async def test_free_memory_of_an_apu_is_also_bounded_by_gtt(host: Host) -> None:
    strix_halo(host.tree)
    host.tree.meminfo(130986440, 130000000)
    assert (await host.sample()).free_mib == 98705 - 4096


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (DeviceOptions(pool=PoolChoice.VRAM), (512, 484, 28)),
        (DeviceOptions(reserve_mib=1024), (122880, 24175, 95232 - 1024)),
        (DeviceOptions(reserve_mib=0), (122880, 24175, 95232)),
    ],
)
async def test_options_choose_the_pool_and_the_reserve(
    host: Host, options: DeviceOptions, expected: tuple[int, int, int]
) -> None:
    strix_halo(host.tree)
    host.tree.kfd_gone(5200)
    host.source = host.new_source([("PCI-0000:c6:00.0", options)])
    assert memory(await host.sample()) == expected


async def test_a_card_of_its_own_is_not_integrated_even_where_gtt_is_larger(host: Host) -> None:
    host.tree.add_card(replace(RX7900XTX, files={**RX7900XTX.files, "mem_info_gtt_total": "99999999999\n"}))
    sample = await host.sample()
    assert (sample.pool, sample.integrated, sample.total_mib) == (Pool.VRAM, False, 24560)


async def test_a_large_carve_out_is_the_pool(host: Host) -> None:
    files = {**STRIX_HALO.files, "mem_info_vram_total": f"{96 << 30}\n", "mem_info_gtt_total": f"{16 << 30}\n"}
    host.tree.add_card(replace(STRIX_HALO, files=files))
    sample = await host.sample()
    assert (sample.pool, sample.integrated, sample.total_mib) == (Pool.VRAM, True, 96 << 10)


async def test_a_gpu_without_vram_files_uses_gtt(host: Host) -> None:
    files = {name: text for name, text in STRIX_HALO.files.items() if "vram" not in name}
    host.tree.add_card(replace(STRIX_HALO, files=files))
    host.tree.meminfo(130986440, 97517568)
    assert (await host.sample()).total_mib == 122880


async def test_a_partitioned_card_is_one_device_with_the_memory_of_all_partitions(host: Host) -> None:
    mi300x(host.tree)
    host.tree.write("/usr/share/libdrm/amdgpu.ids", "# list\n1.0.0\n74A1,\t00,\tAMD Instinct MI300X\n")
    host.tree.write(f"{FOLDER[:-12]}0000:05:00.0/revision", "0x00\n")
    sample = await host.sample()
    assert memory(sample) == (196592, 57344, 139248)
    assert [(process.pid, process.used_mib) for process in sample.processes] == [(7001, 20000), (7002, 36000)]
    assert sample.name == "AMD Instinct MI300X (CPX, NPS4)"


async def test_the_igpu_of_a_host_with_an_nvidia_card_is_marked_integrated(host: Host) -> None:
    sample = (await Host(mixed_igpu(host.tree).root).source.read()).devices[0]
    assert (sample.integrated, sample.pool) == (True, Pool.UNIFIED)
    assert sample.free_mib is not None
    assert sample.free_mib > 24564  # it would win every choice by free memory


async def test_without_kfd_only_the_totals_are_known(host: Host) -> None:
    host.tree.add_card(RX7900XTX)
    sample = await host.sample()
    assert (sample.attribution, sample.attributed, sample.processes) == ("", False, ())
    assert sample.free_mib == 9712


# -- damaged trees -----------------------------------------------------------------------------------------------------


async def test_a_host_without_amd_cards_says_so(host: Host) -> None:
    reading = await host.source.read()
    assert reading.devices == ()
    assert reading.error.startswith("amdgpu-missing: ")


@pytest.mark.parametrize("content", [b"", b"\n", b"12345678901234567890\n", b"max\n", b"-4\n", b"0\n"])
async def test_a_total_that_is_no_amount_is_unknown_and_not_zero(host: Host, content: bytes) -> None:
    rx7900xtx(host.tree)
    host.tree.write(f"{FOLDER}/mem_info_vram_total", content)
    sample = await host.sample()
    assert memory(sample) == (None, None, None)
    assert sample.error.startswith("amdgpu-unreadable: mem_info_vram_total")
    assert not sample.attributed


@pytest.mark.parametrize("content", [b"", b"99999999999999999999\n", b"none\n"])
async def test_a_used_amount_that_is_damaged_leaves_only_the_total(host: Host, content: bytes) -> None:
    rx7900xtx(host.tree)
    host.tree.write(f"{FOLDER}/mem_info_vram_used", content)
    assert memory(await host.sample()) == (24560, None, None)


async def test_a_used_amount_above_the_total_is_a_full_card(host: Host) -> None:
    rx7900xtx(host.tree)
    host.tree.write(f"{FOLDER}/mem_info_vram_used", 25753026560 * 2)
    assert memory(await host.sample()) == (24560, 24560, 0)


async def test_a_file_that_vanishes_while_the_card_is_removed_is_unknown(host: Host) -> None:
    rx7900xtx(host.tree)
    assert (await host.sample()).free_mib == 9712
    for name in ("mem_info_vram_total", "mem_info_vram_used", "board_info", "mem_info_vram_vendor"):
        host.tree.remove(f"{FOLDER}/{name}")
    sample = await host.sample()
    assert (sample.free_mib, sample.pool, sample.integrated) == (None, Pool.VRAM, False)


async def test_an_unreadable_amount_of_a_process_is_unknown_and_not_zero(host: Host) -> None:
    mi300x(host.tree)
    host.tree.write("/sys/class/kfd/kfd/proc/7003/vram_28851", b"")
    sample = await host.sample()
    assert [(one.pid, one.used_mib) for one in sample.processes] == [(7001, 20000), (7002, 36000), (7003, None)]
    assert not sample.attributed


@pytest.mark.parametrize("name", ["mem_info_gtt_total", "mem_info_vram_total"])
async def test_an_apu_keeps_its_pool_while_one_of_the_sizes_cannot_be_read(host: Host, name: str) -> None:
    strix_halo(host.tree)
    before = await host.sample()
    folder = host.tree.path("/sys/bus/pci/devices/0000:c6:00.0")
    folder = folder if folder.exists() else next(host.tree.root.glob("sys/devices/**/0000:c6:00.0"))
    (folder / name).write_bytes(b"")
    sample = await host.sample()
    assert (sample.pool, sample.integrated) == (Pool.UNIFIED, True)
    assert memory(sample) in (memory(before), (None, None, None)), "512 MiB of carve-out are not the pool"


async def test_an_unknown_amount_of_host_ram_makes_free_memory_of_an_apu_unknown(host: Host) -> None:
    strix_halo(host.tree)
    host.tree.write("/proc/meminfo", "MemTotal:   130986440 kB\n")
    sample = await host.sample()
    assert (sample.free_mib, sample.error.split(":")[0]) == (None, "no-host-ram")


async def test_a_removed_card_is_lost_and_comes_back_as_the_same_device(host: Host) -> None:
    rx7900xtx(host.tree)
    before = await host.sample()
    host.tree.remove_card(RX7900XTX)
    gone = await host.sample()
    assert (gone.index, gone.uuid, gone.lost, gone.free_mib) == (0, before.uuid, True, None)
    assert gone.error.startswith("gone: the card at 0000:03:00.0")
    host.tree.add_card(replace(RX7900XTX, bdf="0000:0a:00.0", number=5))
    back = await host.sample()
    assert (back.index, back.uuid, back.lost, back.free_mib) == (0, before.uuid, False, 9712)
    assert "0000:0a:00.0" in back.names


async def test_another_card_in_the_same_slot_is_another_device(host: Host) -> None:
    rx7900xtx(host.tree)
    first = await host.sample()
    host.tree.write(f"{FOLDER}/unique_id", "00000000deadbeef\n")
    lost, new = (await host.source.read()).devices
    assert (lost.uuid, lost.lost) == (first.uuid, True)
    assert (new.index, new.uuid, new.lost) == (1, "AMD-00000000deadbeef", False)


async def test_an_unreadable_unique_id_does_not_make_it_another_device(host: Host) -> None:
    rx7900xtx(host.tree)
    first = await host.sample()
    host.tree.write(f"{FOLDER}/unique_id", b"")
    assert (await host.sample()).uuid == first.uuid


async def test_another_model_without_an_id_in_the_same_slot_is_another_device(host: Host) -> None:
    rx7900xtx(host.tree)
    first = await host.sample()
    host.tree.remove(f"{FOLDER}/unique_id")
    host.tree.write(f"{FOLDER}/device", "0x7480\n")
    lost, new = (await host.source.read()).devices
    assert (lost.uuid, lost.lost, new.uuid) == (first.uuid, True, "PCI-0000:03:00.0")


async def test_two_cards_with_one_unique_id_are_two_devices(host: Host) -> None:
    host.tree.add_card(RX7900XTX)
    host.tree.add_card(replace(RX7900XTX, bdf="0000:04:00.0", number=2))
    devices = (await host.source.read()).devices
    assert [sample.uuid for sample in devices] == ["AMD-5e1f0c3a9b7d2468", "PCI-0000:04:00.0"]


# -- sleeping cards ----------------------------------------------------------------------------------------------------


async def test_a_suspended_card_proves_nothing_and_its_processes_keep_their_memory(host: Host) -> None:
    rx7900xtx(host.tree)
    host.tree.write(f"{FOLDER}/power/runtime_status", "suspended\n")
    host.tree.write(f"{FOLDER}/mem_info_vram_used", 5439488)
    asleep = await host.sample()
    assert (asleep.asleep, asleep.proves_release) == (True, False)
    assert (asleep.used_mib, asleep.free_mib) == (13100, 24560 - 13100)
    host.tree.write(f"{FOLDER}/power/runtime_status", "active\n")
    await host.clock.advance(9.9)
    assert (await host.sample()).asleep
    await host.clock.advance(0.2)
    assert not (await host.sample()).asleep


async def test_a_card_that_slept_between_two_readings_counts_as_asleep(host: Host) -> None:
    rx7900xtx(host.tree)
    host.tree.write(f"{FOLDER}/power/runtime_suspended_time", 100)
    assert not (await host.sample()).asleep
    host.tree.write(f"{FOLDER}/power/runtime_suspended_time", 2100)
    assert (await host.sample()).asleep


async def test_after_a_suspend_of_the_host_the_memory_is_still_moving(host: Host) -> None:
    rx7900xtx(host.tree)
    await host.sample()
    host.source.reopen()
    assert (await host.sample()).asleep
    await host.clock.advance(10.0)
    assert not (await host.sample()).asleep


async def test_no_file_that_wakes_a_card_is_opened_for_a_card_that_no_process_uses(host: Host) -> None:
    rx7900xtx(host.tree)
    host.tree.kfd_use(4711, 38924, 0)
    host.tree.write(f"{FOLDER}/power/control", "auto")
    for name in ("gpu_busy_percent", "pp_dpm_sclk", "hwmon/hwmon3/temp1_input", "hwmon/hwmon3/power1_average"):
        host.tree.fifo(f"{FOLDER}/{name}")  # would hang
    host.tree.fifo("/sys/class/kfd/kfd/proc/4711/sdma_38924")
    host.tree.fifo("/sys/class/kfd/kfd/proc/4711/stats_38924/cu_occupancy")
    assert (await host.sample()).free_mib == 9712


async def test_an_error_of_the_file_system_in_an_unforeseen_place_ends_one_reading_only(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    rx7900xtx(host.tree)
    await host.source.read()

    def failing(*_: object) -> dict[str, Card]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(sysfs, "cards", failing)
        reading = await host.source.read()
    assert reading.error == "sysfs-failed: Input/output error"
    assert [(one.index, one.free_mib) for one in reading.devices] == [(0, None)]
    assert (await host.sample()).free_mib == 9712
