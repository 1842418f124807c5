"""What the host's files say about NVIDIA's driver where its library is missing."""

from __future__ import annotations

from pathlib import Path

from gpumand.vram.nvml_host import NvmlHost

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
