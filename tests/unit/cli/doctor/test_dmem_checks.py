"""The doctor on hosts whose kernel can count VRAM by unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from gpumand.cli.doctor.checks import examine
from gpumand.cli.doctor.dmem import read_dmem, unread_cards
from gpumand.cli.doctor.facts import Dmem, Facts
from gpumand.cli.doctor.finding import Severity
from gpumand.testing.host_tree import FakeCard, HostTree
from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, status
from tests.unit.vram.dmem_trees import MIB, NVIDIA, RADEON, mixed_dmem, rx7900xtx_dmem, strix_halo_dmem


def with_dmem(*regions: str, **changes: Any) -> Facts:
    return replace(HEALTHY, dmem=Dmem(regions or (RADEON,), **({"is_enabled": True} | changes)))


def test_host_without_the_controller_has_nothing_to_check() -> None:
    assert examine(replace(HEALTHY, dmem=None))["VRAM by unit"] is None


def test_controller_that_is_not_enabled_is_recommended() -> None:
    found = only_finding(with_dmem(is_enabled=False), "VRAM by unit")
    assert found.severity is Severity.NOTE
    assert found.fix.startswith("sudo systemctl enable --now gpumand-dmem.service")
    assert "Vulkan" in found.why
    nvidia = only_finding(with_dmem(NVIDIA, is_enabled=False), "VRAM by unit")
    assert "containers" in nvidia.why
    own = replace(with_dmem(is_enabled=False), user=True)
    assert "/usr/libexec/gpumand-dmem --user=" in only_finding(own, "VRAM by unit").fix


def test_unit_that_is_not_counted_is_named_with_the_commands() -> None:
    found = only_finding(with_dmem(uncounted=frozenset({"mvoice.service"})), "uncounted units")
    assert found.severity is Severity.WARNING
    assert "mvoice.service" in found.what
    assert "systemctl restart gpumand-dmem.service" in found.fix
    assert "systemctl restart mvoice.service" in found.fix
    nvidia = with_dmem(NVIDIA, uncounted=frozenset({"mvoice.service"}))
    assert only_finding(nvidia, "uncounted units").severity is Severity.NOTE


def test_driver_and_kernel_are_compared_on_nvidia_cards() -> None:
    consumers = [samples.consumer("mvoice", used_mib=9000), samples.consumer("comfyui", used_mib=9000)]
    facts = replace(with_dmem(NVIDIA), status=status(consumers=consumers))
    unit = facts.unit_names["mvoice"]
    assert facts.dmem is not None
    for kernel_mib, expected in ((9000, 0), (9400, 0), (13000, 1), (100, 1)):
        facts = replace(facts, dmem=replace(facts.dmem, nvidia_mib={unit: kernel_mib}))
        assert len(findings(facts, "driver and kernel")) == expected, kernel_mib


def test_hosts_are_read_as_they_are(tmp_path: Path) -> None:
    assert read_dmem({"ollama.service"}, tmp_path) is None

    rx7900xtx_dmem(HostTree(tmp_path / "radeon"))
    radeon = read_dmem({"ollama.service"}, tmp_path / "radeon")
    assert radeon == Dmem((RADEON,), is_enabled=True)

    strix_halo_dmem(HostTree(tmp_path / "halo"))
    halo = read_dmem({"llama@qwen.service"}, tmp_path / "halo")
    assert halo is not None
    assert halo.uncounted == {"llama@qwen.service"}

    mixed_dmem(HostTree(tmp_path / "mixed"))
    mixed = read_dmem({"comfyui.service"}, tmp_path / "mixed")
    assert mixed is not None
    assert (mixed.nvidia_mib, mixed.is_only_nvidia) == ({"comfyui.service": 9000}, False)

    late = rx7900xtx_dmem(HostTree(tmp_path / "late"))
    for folder in ("system.slice", "system.slice/ollama.service", "system.slice/ssh.service", "user.slice"):
        late.without_file(folder)
    found = read_dmem({"ollama.service"}, tmp_path / "late")
    assert found is not None
    assert not found.is_enabled
    assert MIB == 1 << 20


# -- cards that cannot be read -----------------------------------------------------------------------------------------


def card(bdf: str, driver: str, number: int) -> FakeCard:
    return FakeCard(bdf, {"uevent": f"DRIVER={driver}\n", "device": "0x56a0\n"}, number=number, bridges="pci0000:00")


def test_cards_whose_driver_shows_no_memory_are_named(tmp_path: Path) -> None:
    tree = HostTree(tmp_path)
    tree.add_card(card("0000:00:02.0", "i915", 0))
    tree.add_card(card("0000:03:00.0", "i915", 1))
    tree.add_card(card("0000:04:00.0", "nouveau", 2))
    tree.add_card(card("0000:05:00.0", "xe", 3))
    cards = unread_cards(tmp_path)
    assert [(one.bdf, one.driver) for one in cards] == [("0000:03:00.0", "i915"), ("0000:04:00.0", "nouveau")]
    intel, nvidia = findings(replace(HEALTHY, unread_cards=cards), "drivers of cards")
    assert intel.severity is Severity.NOTE
    assert intel.fix.startswith("i915.force_probe=!56a0 xe.force_probe=56a0 ")
    assert "NVIDIA" in nvidia.why
