"""The kernel's dmem controller as a source: the memory of units, and what is not proved by their absence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpumand.domain.device import ProcessUse, Sample
from gpumand.testing.host_tree import HostTree
from gpumand.vram.dmem import DmemReader, UnitAmounts, pci_address, regions, units, with_units
from gpumand.vram.dmem_early_units import EarlyUnits, enabled_since
from gpumand.vram.dmem_walk import read_amounts
from tests.unit.vram.dmem_trees import (
    HALO,
    MIB,
    NVIDIA,
    RADEON,
    USER,
    Dmem,
    b580_dmem,
    mixed_dmem,
    rx7900xtx_dmem,
    strix_halo_dmem,
)

BDF = "0000:03:00.0"


@pytest.fixture
def tree(tmp_path: Path) -> HostTree:
    return HostTree(tmp_path)


def mib_by_unit(amounts: UnitAmounts) -> dict[str, int]:
    return {row.unit: row.used_mib or 0 for row in amounts.processes}


def sample(total_mib: int, used_mib: int, *processes: ProcessUse) -> Sample:
    return Sample(0, f"PCI-{BDF}", "Radeon", "amdgpu", total_mib, used_mib, total_mib - used_mib, processes)


# -- the hosts of the specification ------------------------------------------------------------------------------------


def test_desktop_with_a_radeon(tree: HostTree) -> None:
    rx7900xtx_dmem(tree)
    found = DmemReader(tree.root).read()[BDF]
    assert mib_by_unit(found) == {"ollama.service": 13210, "user@1000.service": 1410}
    assert found.rest_bytes is not None
    assert found.rest_bytes // MIB == 164
    assert (found.blind, found.enabled) == (frozenset(), True)
    seen = with_units(sample(24560, 14848, ProcessUse(4711, 13100)), found)
    assert (seen.attributed, seen.attribution) == (True, "dmem")


def test_unit_of_a_template_is_blind_since_only_its_slice_has_amounts(tree: HostTree) -> None:
    strix_halo_dmem(tree)
    found = units(tree.root, HALO)
    assert (mib_by_unit(found), set(found.blind)) == ({}, {"llama@qwen.service"})


def test_template_units_have_amounts_once_their_slice_is_enabled(tree: HostTree) -> None:
    dmem = strix_halo_dmem(tree)
    dmem.current("system.slice/system-llama.slice/llama@qwen.service", {HALO: 6 * MIB})
    found = units(tree.root, HALO)
    assert (mib_by_unit(found), found.blind) == ({"llama@qwen.service": 6}, frozenset())


def test_intel_card(tree: HostTree) -> None:
    b580_dmem(tree)
    found = DmemReader(tree.root).read()[BDF]
    assert mib_by_unit(found) == {"llama-sycl.service": 7415, "whisper.service": 1205}
    assert found.rest_bytes is not None
    assert found.rest_bytes // MIB == 212


def test_cards_of_two_vendors_do_not_share_amounts(tree: HostTree) -> None:
    mixed_dmem(tree)
    found = DmemReader(tree.root).read()
    assert mib_by_unit(found["0000:01:00.0"]) == {"comfyui.service": 9000}
    assert mib_by_unit(found["0000:0c:00.0"]) == {}


# -- names of regions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("region", "address"),
    [
        (RADEON, "0000:03:00.0"),
        ("drm/0000:03:00.0/vram1", "0000:03:00.0"),
        (NVIDIA, "0000:01:00.0"),
        ("nvidia/0000000F:01:00.0/vidmem", "000f:01:00.0"),
        ("drm/10000:e1:00.0/vram0", "10000:e1:00.0"),
        ("nvidia/00000000:01:00.0/gpu0", ""),
        ("drm/0000:03:00.0/gtt", ""),
        ("drm/../../etc/vram", ""),
        ("", ""),
    ],
)
def test_pci_address_of_a_region(region: str, address: str) -> None:
    assert pci_address(region) == address


def test_tiles_of_a_card_add_up(tree: HostTree) -> None:
    dmem, tiles = Dmem(tree), [f"drm/{BDF}/vram{tile}" for tile in (0, 1)]
    dmem.capacity(dict.fromkeys(tiles, 1000 * MIB))
    dmem.current("", {tiles[0]: 300 * MIB, tiles[1]: 400 * MIB})
    for folder in ("system.slice", "system.slice/a.service"):
        dmem.current(folder, {tiles[0]: 100 * MIB, tiles[1]: 400 * MIB})
    found = DmemReader(tree.root).read()[BDF]
    assert (found.total_bytes, found.used_bytes) == (2000 * MIB, 700 * MIB)
    assert mib_by_unit(found) == {"a.service": 500}


# -- faults ------------------------------------------------------------------------------------------------------------


def test_host_without_the_controller_has_no_amounts(tree: HostTree) -> None:
    assert (regions(tree.root), DmemReader(tree.root).read()) == ({}, {})
    assert units(tree.root, RADEON) == UnitAmounts()


def test_region_in_current_that_is_not_in_capacity_is_ignored(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    for folder in ("", "system.slice", "system.slice/ollama.service"):
        dmem.current(folder, {RADEON: 100 * MIB, "drm/0000:99:00.0/vram": 900 * MIB})
    found = DmemReader(tree.root).read()
    assert set(found) == {BDF}
    assert mib_by_unit(found[BDF])["ollama.service"] == 100


@pytest.mark.parametrize("text", ["max", "", "-5", "1e9", "99999999999999999999", "12 34", "١٢"])
def test_unit_without_a_number_is_blind_and_not_empty(tree: HostTree, text: str) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("system.slice/ollama.service", {RADEON: text})
    found = units(tree.root, RADEON)
    assert "ollama.service" not in found.by_unit
    assert "ollama.service" in found.blind


@pytest.mark.parametrize("text", ["max", "0", "", "99999999999999999999"])
def test_region_without_a_size_is_no_region(tree: HostTree, text: str) -> None:
    rx7900xtx_dmem(tree).capacity({RADEON: text})
    assert DmemReader(tree.root).read() == {}


def test_missing_file_in_the_folder_of_a_unit_is_not_zero(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.without_file("system.slice/ollama.service")
    found = units(tree.root, RADEON)
    # What the slice holds may be any unit's below it.
    assert found.blind == {"ollama.service", "ssh.service"}


def test_missing_file_proves_emptiness_where_the_slice_above_holds_nothing(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("system.slice/system-getty.slice", {RADEON: 0})
    dmem.without_file("system.slice/system-getty.slice/getty@tty1.service")
    assert units(tree.root, RADEON).blind == frozenset()


def test_memory_that_a_slice_holds_beyond_its_units_may_be_any_of_them(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("system.slice/ollama.service", {RADEON: 100 * MIB})
    found = units(tree.root, RADEON)
    assert mib_by_unit(found)["ollama.service"] == 100
    assert found.blind == {"ollama.service", "ssh.service"}


@pytest.mark.parametrize("text", ["max", ""])
def test_slice_without_a_number_is_searched_and_may_hold_memory_of_any_unit(tree: HostTree, text: str) -> None:
    rx7900xtx_dmem(tree).current("system.slice", {RADEON: text})
    found = units(tree.root, RADEON)
    assert mib_by_unit(found)["ollama.service"] == 13210
    assert (set(found.blind), found.has_rest) == ({"ollama.service", "ssh.service"}, True)


def test_small_remainder_of_a_slice_hides_no_model(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("system.slice", {RADEON: 13851688960 + 60 * MIB})
    assert units(tree.root, RADEON).blind == frozenset()


def test_unknown_use_of_the_device_still_lists_units(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("", {RADEON: "max"})
    found = units(tree.root, RADEON)
    assert (found.used_bytes, found.rest_bytes) == (None, None)
    assert mib_by_unit(found) == {"ollama.service": 13210, "user@1000.service": 1410}


def test_controller_that_is_enabled_nowhere_says_nothing_of_units(tree: HostTree) -> None:
    dmem = Dmem(tree)
    dmem.capacity({RADEON: 25753026560})
    dmem.current("", {RADEON: 15502147584})
    dmem.without_file("system.slice/ollama.service")
    found = DmemReader(tree.root).read()[BDF]
    assert (found.enabled, mib_by_unit(found)) == (False, {})
    before = sample(24560, 300)
    assert with_units(before, found) is before
    assert with_units(before, None) is before


def test_vanishing_cgroup_is_skipped(tree: HostTree, monkeypatch: pytest.MonkeyPatch) -> None:
    rx7900xtx_dmem(tree)
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("user-1000.slice"):
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr("gpumand.vram.dmem_walk.os.scandir", scandir)
    assert mib_by_unit(units(tree.root, RADEON)) == {"ollama.service": 13210}


# -- foreign managers --------------------------------------------------------------------------------------------------


def test_unit_inside_a_container_is_not_taken_for_the_unit_of_the_host(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    for folder in ("lxc.payload.web", "lxc.payload.web/system.slice", "lxc.payload.web/system.slice/ollama.service"):
        dmem.current(folder, {RADEON: 500 * MIB})
    assert mib_by_unit(units(tree.root, RADEON)) == {
        "lxc.payload.web": 500,
        "ollama.service": 13210,
        "user@1000.service": 1410,
    }


def test_containers_of_engines_without_systemd_are_listed_one_by_one(tree: HostTree) -> None:
    dmem, container = rx7900xtx_dmem(tree), "a" * 64
    for folder in ("docker", f"docker/{container}"):
        dmem.current(folder, {RADEON: 500 * MIB})
    pod = f"kubepods/burstable/pod1234/{container}"
    for folder in ("kubepods", "kubepods/burstable", "kubepods/burstable/pod1234", pod, f"{pod}/system.slice"):
        dmem.current(folder, {RADEON: 70 * MIB})
    found = mib_by_unit(units(tree.root, RADEON))
    assert (found[f"docker/{container}"], found[pod]) == (500, 70)
    dmem.without_file(f"docker/{container}")
    assert f"docker/{container}" in units(tree.root, RADEON).blind


def test_nested_cgroups_of_a_unit_are_counted_once(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("system.slice/ollama.service/runner.scope", {RADEON: 13851688960})
    assert mib_by_unit(units(tree.root, RADEON))["ollama.service"] == 13210


def test_user_manager_lists_its_own_units_and_the_rest_of_the_host_as_a_whole(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    tree.write("/proc/self/cgroup", f"0::/{USER}/app.slice/gpumand.service\n")
    for folder, mib in (("app.slice", 1000), ("app.slice/ollama.service", 1000), ("session.slice", 410)):
        dmem.current(f"{USER}/{folder}", {RADEON: mib * MIB})
    dmem.current(f"{USER}/session.slice/gnome.service", {RADEON: 410 * MIB})
    expected = {"gnome.service": 410, "ollama.service": 1000, "system.slice": 13210}
    assert mib_by_unit(units(tree.root, RADEON, user=True)) == expected
    assert mib_by_unit(DmemReader(tree.root).read()[BDF]) == expected
    assert mib_by_unit(units(tree.root, RADEON)) == {"ollama.service": 13210, "user@1000.service": 1410}


# -- controller that was enabled late ----------------------------------------------------------------------------------


def test_units_that_are_older_than_the_controller_are_blind(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("system.slice/system-llama.slice", {RADEON: 0})
    dmem.current("system.slice/old.service", {RADEON: 0})
    dmem.enabled_at(1000)
    dmem.process(10, "system.slice/old.service", 990)
    dmem.process(11, "system.slice/ssh.service", 1010)
    dmem.process(12, "system.slice/system-llama.slice/llama@a.service/nested", 20)
    found = DmemReader(tree.root).read()[BDF]
    assert found.blind == {"old.service", "llama@a.service"}
    assert mib_by_unit(found)["ollama.service"] == 13210


def test_unit_that_is_restarted_after_the_controller_was_enabled_is_seen(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.enabled_at(1000)
    dmem.process(10, "system.slice/old.service", 990)
    early = EarlyUnits(tree.root, now=lambda: 5.0)
    assert early.find() == {"old.service"}
    tree.path("/sys/fs/cgroup/system.slice/old.service").rename(tree.path("/former"))
    dmem.process(20, "system.slice/old.service", 1020)
    assert early.find() == frozenset()


def test_early_processes_that_have_ended_are_noticed_after_a_minute(tree: HostTree) -> None:
    dmem, clock = rx7900xtx_dmem(tree), [5.0]
    dmem.enabled_at(1000)
    dmem.process(10, "system.slice/old.service", 990)
    early = EarlyUnits(tree.root, now=lambda: clock[0])
    assert early.find() == {"old.service"}
    dmem.process(20, "system.slice/old.service", 1020)
    clock[0] = 30.0
    assert early.find() == {"old.service"}
    clock[0] = 66.0
    assert early.find() == frozenset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2000000 3000000 /\n", {"/": 3.0}),
        ("2000000 3000000\n", {"/": 3.0}),
        ("2000000\n", {"/": 2.0}),
        ("1 1000000 /\n1 5000000 /system.slice\n", {"/": 1.0, "/system.slice": 5.0}),
        ("", {}),
        ("soon\n", {}),
        ("5 -1 /\n", {}),
    ],
)
def test_times_at_which_the_controller_was_enabled(tree: HostTree, text: str, seconds: dict[str, float]) -> None:
    tree.write("/run/gpumand-dmem/since", text)
    assert enabled_since(tree.root) == seconds


def test_slice_that_was_enabled_later_has_early_units_of_its_own(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.process(10, "system.slice/system-llama.slice/llama@a.service", 500)
    dmem.process(11, "system.slice/ollama.service", 500)
    tree.write("/run/gpumand-dmem/since", "1 1000000 /\n1 900000000 /system.slice/system-llama.slice\n")
    assert EarlyUnits(tree.root).find() == {"llama@a.service"}


def test_no_unit_is_early_where_another_program_enabled_the_controller(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.process(10, "system.slice/ssh.service", 1)
    assert EarlyUnits(tree.root).find() == frozenset()


# -- joining with what the source has found ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used_mib", "attributed"),
    [(14848, True), (15848, True), (13210 + 1410 + 1228, True), (13210 + 1410 + 1229, False)],
)
def test_absence_counts_only_if_the_units_explain_what_is_used(tree: HostTree, used_mib: int, attributed: bool) -> None:
    rx7900xtx_dmem(tree)
    found = DmemReader(tree.root).read()[BDF]
    assert with_units(sample(24560, used_mib), found).attributed is attributed


def test_kfd_processes_explain_memory_that_the_kernel_has_charged_to_the_root(tree: HostTree) -> None:
    dmem = rx7900xtx_dmem(tree)
    for folder in ("system.slice", "system.slice/ollama.service"):
        dmem.current(folder, {RADEON: 0})
    found = DmemReader(tree.root).read()[BDF]
    assert not with_units(sample(24560, 13500), found).attributed
    assert with_units(sample(24560, 13500, ProcessUse(4711, 13100)), found).attributed


def test_device_without_readings_is_not_attributed() -> None:
    blank = Sample(0, "", "", "amdgpu", None, None, None)
    assert not with_units(blank, UnitAmounts(1, 1, {}, enabled=True)).attributed


def test_cost_of_a_walk_is_bounded_by_skipping_what_holds_nothing(
    tree: HostTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    dmem = rx7900xtx_dmem(tree)
    dmem.current("kubepods.slice", {RADEON: 0})
    for number in range(200):
        dmem.current(f"kubepods.slice/pod{number}.slice", {RADEON: 0})
    opened: list[str] = []
    real = read_amounts

    def read(path: Path) -> dict[str, int | None] | None:
        opened.append(str(path))
        return real(path)

    monkeypatch.setattr("gpumand.vram.dmem_walk.read_amounts", read)
    units(tree.root, RADEON)
    assert not [path for path in opened if "/kubepods.slice/pod" in path]
    assert len(opened) < 15
