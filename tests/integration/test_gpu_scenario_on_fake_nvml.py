"""The GPU tests without a GPU: the same scenario with the fake NVML."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.scenario import Place, gpu_setup, run_scenario
from tests.shim import build_shim, have_compiler, shim_environment
from tests.shim.shimfile import Shim, ShimDevice


@pytest.mark.skipif(not have_compiler(), reason="gcc is not installed, so the fake NVML cannot be built")
async def test_evictions_settle_and_loads_fit_on_the_shim(tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    text = tmp_path / "shim.txt"
    device = ShimDevice("GPU-shim", reserved_mib=400, processes_in=held)
    Shim(devices=[device]).write(text)
    place = Place("shim", held, shim_environment(build_shim(tmp_path / "nvml"), text))
    async with gpu_setup(tmp_path, place, device.total_mib - device.reserved_mib) as setup:
        await run_scenario(setup)
