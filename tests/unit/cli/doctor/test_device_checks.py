"""The checks that explain how the memory of AMD, Intel and integrated devices is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Severity
from gpumand.vram import amdgpu, tegra
from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, settings, spec, status

RADEON = {"source": "amdgpu", "name": "Radeon RX 7900 XTX", "pool": "vram", "attribution": "kfd"}
IGPU = {
    "index": 10000,
    "uuid": "PCI-0000:0c:00.0",
    "aliases": ["0000:0c:00.0", "PCI-0000:0c:00.0"],
    "integrated": True,
    "attribution": "dmem",
}


def host(*devices: dict[str, Any]) -> Facts:
    return replace(HEALTHY, status=status(devices=[samples.device(**one) for one in devices]))


@pytest.mark.parametrize(
    ("attribution", "what", "why"),
    [
        ("dmem", "all memory of each unit", ""),
        ("kfd", "the kernel's list of ROCm processes", "Vulkan and OpenGL belongs to no consumer"),
        ("", "known as totals only", "declared footprints stand for what each consumer holds"),
    ],
)
def test_how_the_memory_of_a_card_is_attributed(attribution: str, what: str, why: str) -> None:
    [finding] = findings(host({**RADEON, "attribution": attribution}), "attribution of devices")
    assert finding.severity is Severity.NOTE
    assert finding.what.startswith("device 0 (Radeon RX 7900 XTX): its memory is ")
    assert what in finding.what
    assert why in finding.why


def test_memory_without_services_is_a_finding_with_its_fix() -> None:
    gap = "gpumand runs in a container, and driver 535.54 numbers processes as the host does. Update the driver"
    card = {"source": "nvml", "name": "RTX 4090", "attribution": "", "attribution_gap": gap}
    [finding] = findings(host(card), "attribution of devices")
    assert finding.severity is Severity.WARNING
    assert finding.what == f"device 0 (RTX 4090): {gap.removesuffix('. Update the driver')}"
    assert "declared footprints stand for what each service holds" in finding.why
    assert finding.fix == "Update the driver"


@pytest.mark.parametrize(
    ("gap", "fix"),
    [
        (amdgpu.HOST_PIDS, "Run gpumand on the host"),
        (
            tegra.NO_NVML,
            "Declare vram_resident_mib for each consumer, and give it a unit or container, by which it is evicted",
        ),
    ],
)
def test_fix_that_a_source_names_is_the_fix_of_the_finding(gap: str, fix: str) -> None:
    [finding] = findings(host({**RADEON, "attribution": "", "attribution_gap": gap}), "attribution of devices")
    assert finding.fix == fix
    assert finding.what.endswith(gap.removesuffix(f". {fix}"))


def test_memory_of_services_that_is_host_ram_is_not_checked_by_free_memory() -> None:
    board = {
        "source": "nvml",
        "name": "Orin",
        "pool": "unified",
        "attribution": "",
        "attribution_gap": "no NVML. Declare",
    }
    [finding] = findings(host(board), "attribution of devices")
    assert (finding.what, finding.fix) == ("device 0 (Orin): no NVML", "Declare")
    assert "only a stop of its unit or container counts as an eviction" in finding.why


def test_an_nvidia_card_and_an_unreadable_one_need_no_explanation() -> None:
    unreadable = host({**RADEON, "error": "amdgpu-unreadable: x"})
    for facts in (host({"source": "nvml", "attribution": "nvml"}), unreadable):
        assert findings(facts, "attribution of devices") == findings(facts, "memory of devices") == []


def test_a_gpu_that_uses_host_ram_is_explained() -> None:
    [finding] = findings(host({**RADEON, "pool": "unified"}), "memory of devices")
    assert finding.what == "device 0 (Radeon RX 7900 XTX): it uses host RAM"
    assert "stopped instead of parked" in finding.why


def test_an_integrated_gpu_beside_a_card_is_used_only_by_name() -> None:
    both = host({}, IGPU)
    [finding] = findings(both, "integrated GPUs")
    assert finding.why == 'consumers use it only if they name it: device = "0000:0c:00.0"'
    assert findings(host(IGPU), "integrated GPUs") == []
    named = replace(both, config=settings(spec("mvoice", devices=("PCI-0000:0c:00.0",))))
    assert findings(named, "integrated GPUs") == []
