"""Intel cards of the driver xe, read through the dmem controller."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gpumand.domain.device import Pool, Reading, Sample
from gpumand.domain.gpu_settings import DeviceOptions, GpuSettings
from gpumand.domain.unread_devices import Access, access
from gpumand.host.clock import SystemClock
from gpumand.testing.host_tree import ARC_B580, FakeCard, HostTree, rx7900xtx
from gpumand.vram import make_source
from gpumand.vram.xe import MISSING, XeSource
from tests.unit.vram.dmem_trees import ARC, MIB, b580_dmem

PROCESSOR = FakeCard("0000:00:02.0", {"uevent": "DRIVER=xe\n", "device": "0x64a0\n"}, number=3, bridges="pci0000:00")


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


@pytest_asyncio.fixture
async def source(tree: HostTree) -> AsyncIterator[XeSource]:
    source = XeSource(SystemClock(), tree.root)
    yield source
    await source.close()


async def only(source: XeSource) -> Sample:
    [sample] = (await source.read()).devices
    return sample


def memory(sample: Sample) -> tuple[int | None, int | None, int | None]:
    return sample.total_mib, sample.used_mib, sample.free_mib


async def test_arc_b580(tree: HostTree, source: XeSource) -> None:
    b580_dmem(tree)
    sample = await only(source)
    assert memory(sample) == (12216, 8832, 3384)
    assert {row.unit: row.used_mib for row in sample.processes} == {"llama-sycl.service": 7415, "whisper.service": 1205}
    assert (sample.attributed, sample.attribution, sample.error) == (True, "dmem", "")
    assert (sample.uuid, sample.index, sample.pool) == ("PCI-0000:03:00.0", 0, Pool.VRAM)
    assert {"0", "0000:03:00.0", "PCI-0000:03:00.0"} <= sample.names


async def test_card_without_the_controller_says_what_is_missing(tree: HostTree, source: XeSource) -> None:
    tree.add_card(ARC_B580)
    sample = await only(source)
    assert memory(sample) == (None, None, None)
    assert sample.error.startswith("no-dmem: ")
    assert "6.14" in sample.error
    assert not sample.lost


async def test_card_that_has_not_registered_its_memory_is_not_taken_for_empty(tree: HostTree, source: XeSource) -> None:
    b580_dmem(tree).capacity({"drm/0000:99:00.0/vram0": 5 * MIB})
    assert (await only(source)).error.startswith("no-dmem: ")


@pytest.mark.parametrize("used", ["max", ""])
async def test_unknown_use_is_not_zero(tree: HostTree, source: XeSource, used: str) -> None:
    b580_dmem(tree).current("", {ARC: used})
    sample = await only(source)
    assert (memory(sample), sample.attributed) == ((12216, None, None), False)
    assert sample.error.startswith("no-dmem: ")


async def test_more_use_than_memory_leaves_none_free(tree: HostTree, source: XeSource) -> None:
    b580_dmem(tree).current("", {ARC: 1 << 44})
    assert memory(await only(source)) == (12216, 12216, 0)


async def test_totals_are_known_where_no_unit_has_amounts(tree: HostTree, source: XeSource) -> None:
    dmem = b580_dmem(tree)
    for folder in ("system.slice", "system.slice/llama-sycl.service", "system.slice/whisper.service"):
        dmem.without_file(folder)
    sample = await only(source)
    assert (memory(sample), sample.processes, sample.attributed) == ((12216, 8832, 3384), (), False)
    assert sample.attribution == ""


async def test_gpu_of_a_processor_shares_host_ram_and_is_marked_as_integrated(tree: HostTree, source: XeSource) -> None:
    b580_dmem(tree)
    tree.add_card(PROCESSOR)
    tree.meminfo(32 << 20, 20 << 20)
    integrated, card = (await source.read()).devices
    assert (integrated.integrated, integrated.pool, integrated.proves_release) == (True, Pool.UNIFIED, False)
    assert memory(integrated) == (32768, 12288, 20480 - 4096)
    assert (card.integrated, card.index) == (False, 1)


async def test_unknown_host_ram_of_the_gpu_of_a_processor_is_an_error_and_not_a_host_without_a_source(
    tree: HostTree, source: XeSource
) -> None:
    tree.add_card(PROCESSOR)
    sample = await only(source)
    assert (memory(sample), sample.error.partition(":")[0]) == ((None, None, None), "no-host-ram")
    assert access(sample) is Access.NEVER_READ


async def test_card_that_vanishes_is_lost_and_keeps_its_index(tree: HostTree, source: XeSource) -> None:
    b580_dmem(tree)
    before = await only(source)
    tree.remove_card(ARC_B580)
    gone = await only(source)
    assert (gone.lost, gone.error.split(":")[0], gone.names) == (True, "gone", before.names)
    assert gone.name == before.name
    tree.add_card(FakeCard("0000:01:00.0", ARC_B580.files, number=2))
    first, second = (await source.read()).devices
    assert (first.uuid, second.uuid) == ("PCI-0000:03:00.0", "PCI-0000:01:00.0")
    tree.add_card(FakeCard(ARC_B580.bdf, ARC_B580.files, number=4))
    assert not (await source.read()).devices[0].lost


async def test_host_without_an_xe_card_says_so(tree: HostTree, source: XeSource) -> None:
    rx7900xtx(tree)
    assert await source.read() == Reading(error=MISSING)


async def test_amounts_of_a_sleeping_card_prove_no_release(tree: HostTree, source: XeSource) -> None:
    dmem = b580_dmem(tree)
    assert (await only(source)).proves_release
    folder = f"/sys/devices/{ARC_B580.bridges}/{ARC_B580.bdf}"
    tree.write(f"{folder}/power/runtime_status", "suspended\n")
    # The driver has moved the memory of llama-sycl to host RAM.
    dmem.current("", {ARC: 1500000000})
    dmem.current("system.slice", {ARC: 1263534080})
    dmem.current("system.slice/llama-sycl.service", {ARC: 0})
    sample = await only(source)
    assert (sample.asleep, sample.proves_release, sample.attributed) == (True, False, False)
    assert [(row.unit, row.used_mib) for row in sample.processes] == [("whisper.service", None)]


async def test_memory_that_stays_free_is_configured_by_device() -> None:
    options = ((ARC_B580.bdf, DeviceOptions(reserve_mib=1000)), (PROCESSOR.bdf, DeviceOptions(reserve_mib=0)))
    with tempfile.TemporaryDirectory() as folder:
        tree = HostTree(Path(folder))
        b580_dmem(tree)
        tree.add_card(PROCESSOR)
        tree.meminfo(32 << 20, 20 << 20)
        source = XeSource(SystemClock(), tree.root, options)
        assert [sample.free_mib for sample in (await source.read()).devices] == [20480, 2384]
        await source.close()


async def test_source_is_created_by_its_name_and_found_by_auto(tree: HostTree) -> None:
    b580_dmem(tree)
    for name in ("xe", "auto"):
        source = make_source(GpuSettings(source=name), SystemClock(), tree.root)
        assert [memory(sample) for sample in (await source.read()).devices] == [(12216, 8832, 3384)], name
        await source.close()
