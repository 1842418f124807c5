"""What the host's files say about NVIDIA's driver where its library is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.vram.nvml_host import NvmlHost

MISSING = "nvml-library-missing: libnvidia-ml.so.1 is not installed"


@pytest.mark.parametrize("error", [MISSING, "nvml-module-missing: the Python module pynvml is not installed"])
def test_a_loaded_driver_without_its_library_is_not_a_host_without_a_gpu(tmp_path: Path, error: str) -> None:
    assert NvmlHost(tmp_path).explained(error) == error
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95\n")
    assert NvmlHost(tmp_path).explained(error).startswith("driver-unreadable: NVIDIA's driver is loaded")
    assert error.partition(": ")[2] in NvmlHost(tmp_path).explained(error)


def test_other_errors_stay_as_they_are(tmp_path: Path) -> None:
    version = tmp_path / "proc/driver/nvidia/version"
    version.parent.mkdir(parents=True)
    version.write_text("NVRM version: 580.95\n")
    assert NvmlHost(tmp_path).explained("driver-not-loaded: no module") == "driver-not-loaded: no module"
