"""Reading numbers, cards, KFD and host RAM from a tree of files, intact and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.testing.host_tree import RX7900XTX, HostTree, mi300x, rx7900xtx
from gpumand.vram import kfd, sysfs
from gpumand.vram.unified import read_pool


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"25753026560\n", 25753026560),
        (b"0\n", 0),
        (b"", None),
        (b"\n", None),
        (b"12345678901234567890\n", None),
        (b"-1\n", None),
        (b"0x10\n", None),
        (b"max\n", None),
        (b"12 34\n", None),
        (b"1.5\n", None),
        ("\u0661\u0662".encode(), None),
        (b"\xff\xfe\n", None),
        (b"9" * 4000, None),
    ],
)
def test_a_file_that_is_not_one_short_decimal_number_is_unknown(
    tree: HostTree, content: bytes, number: int | None
) -> None:
    assert sysfs.read_number(tree.write("/sys/number", content)) == number


def test_a_file_that_vanished_is_unknown(tree: HostTree) -> None:
    assert sysfs.read_number(tree.path("/sys/gone")) is None


def test_cards_are_found_by_pci_address_and_partitions_are_not_cards(tree: HostTree) -> None:
    cards = sysfs.cards(mi300x(tree).root)
    assert {bdf: (card.driver, card.vendor, card.device) for bdf, card in cards.items()} == {
        "0000:05:00.0": ("amdgpu", 0x1002, 0x74A1)
    }


def test_a_link_to_an_absolute_path_stays_below_the_root(tree: HostTree) -> None:
    folder = tree.add_card(RX7900XTX)
    tree.remove(f"{folder}/drm/renderD129/device")
    tree.path(f"{folder}/drm/renderD129/device").symlink_to(folder)
    assert sysfs.cards(tree.root)["0000:03:00.0"].path == tree.path(folder).resolve()


def test_a_host_without_graphics_has_no_cards(tree: HostTree) -> None:
    assert sysfs.cards(tree.root) == {}
    assert not kfd.exists(tree.root)
    assert kfd.nodes(tree.root) == {}
    assert kfd.use(tree.root) == {}


def test_kfd_joins_gpu_ids_to_pci_addresses(tree: HostTree) -> None:
    assert kfd.nodes(rx7900xtx(tree).root) == {38924: kfd.Node("0000:03:00.0", 0)}
    assert kfd.bdf_of(0xF, 0xC600) == "000f:c6:00.0"
    assert kfd.bdf_of(0, 5 << 8 | 3 << 3 | 1) == "0000:05:03.1"


def test_kfd_adds_the_contexts_of_a_process_and_skips_processes_without_memory(tree: HostTree) -> None:
    rx7900xtx(tree)
    tree.write("/sys/class/kfd/kfd/proc/4711/context_1/vram_38924", 1048576)
    tree.write("/sys/class/kfd/kfd/proc/4711/sdma_38924", 77)
    tree.write("/sys/class/kfd/kfd/proc/4900/vram_38924", 0)
    tree.write("/sys/class/kfd/kfd/proc/broken/vram_38924", 5)
    tree.write("/sys/class/kfd/kfd/proc/4901/vram_38924", b"")
    assert kfd.use(tree.root) == {(4711, 38924): 13736345600 + 1048576, (4901, 38924): None}


def test_host_ram_without_the_huge_pages_set_aside_at_boot(tree: HostTree) -> None:
    tree.meminfo(127600748, 118566368)
    pool = read_pool(tree.root)
    assert (pool.total_mib, pool.free_mib(4096), pool.used_mib) == (124610, 115787 - 4096, 124610 - 115787)
    tree.meminfo(127600748, 100000000, "HugePages_Total:    1024", "Hugepagesize:       2048 kB")
    assert read_pool(tree.root).total_mib == 124610 - 2048


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MemTotal: many kB\n",
        "MemTotal: 5 MB\nMemAvailable: 99999999999999999999 kB\n",
        "MemTotal: 500\nMemAvailable: 400\n",
    ],
)
def test_a_damaged_meminfo_is_unknown(tree: HostTree, text: str) -> None:
    tree.write("/proc/meminfo", text)
    pool = read_pool(tree.root)
    assert (pool.total_mib, pool.available_mib, pool.used_mib, pool.free_mib(0)) == (None, None, None, None)
