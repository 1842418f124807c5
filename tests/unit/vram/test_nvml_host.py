"""What the host's files say about NVIDIA's driver where its library is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.domain.device import Pool
from gpumand.testing.host_tree import HostTree
from gpumand.vram.nvml_host import NvmlHost
from gpumand.vram.nvml_memory import Memory

MISSING = "nvml-library-missing: libnvidia-ml.so.1 is not installed"


def test_a_loaded_driver_without_its_library_is_not_a_host_without_a_gpu(tmp_path: Path) -> None:
    assert NvmlHost(tmp_path).explained(MISSING) == MISSING
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95\n")
    assert NvmlHost(tmp_path).explained(MISSING).startswith("driver-unreadable: NVIDIA's driver is loaded")
    assert MISSING.partition(": ")[2] in NvmlHost(tmp_path).explained(MISSING)


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: 580.95\n")
    assert NvmlHost(tmp_path).explained("driver-not-loaded: no module") == "driver-not-loaded: no module"


NOT_SUPPORTED = "memory-info-not-supported: Not Supported"
NO_MEMORY = Memory(None, None, None)


def complete(tmp_path: Path, name: str) -> tuple[Memory, str]:
    HostTree(tmp_path).meminfo(127600748, 118566368)
    return NvmlHost(tmp_path).complete("GPU-a", name, NO_MEMORY, NOT_SUPPORTED)


@pytest.mark.parametrize(
    "name",
    [
        "GeForce RTX 4090",
        "NVIDIA GeForce GT 1030",
        "NVIDIA RTX 6000 Ada Generation",
        "RTX PRO 6000 Blackwell",
        "Quadro P2000",
        "Tesla T4",
        "TITAN V",
        "A100-SXM4-80GB MIG 1g.10gb",
        "H200",
        "L40S",
        "B200",
        "GB200",
        "GH200 480GB",
        "V100S-PCIE-32GB",
        "Tesla K80",
        "NVIDIA CMP 170HX",
        "NVIDIA Graphics Device",
        "NVIDIA PG506-232",
    ],
)
def test_host_ram_never_passes_for_the_memory_of_a_card_that_has_its_own(tmp_path: Path, name: str) -> None:
    """A driver that fails at the first reading after a start of the daemon must not show 110 GiB as free."""
    assert complete(tmp_path, name) == (NO_MEMORY, NOT_SUPPORTED)


@pytest.mark.parametrize("name", ["GB10", "NVIDIA Thor", "Orin (nvgpu)", "NVIDIA N1X RTX", "Jetson AGX Xavier", "new"])
def test_gpus_without_memory_of_their_own_use_host_ram(tmp_path: Path, name: str) -> None:
    memory, error = complete(tmp_path, name)
    assert (memory.total_mib, memory.pool, error) == (124610, Pool.UNIFIED, "")
