"""The GPU tests (circle 4) without a GPU: the same scenario with the fake NVML."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.circle import Place, gpu_circle, run_circle
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
    async with gpu_circle(tmp_path, place, device.total_mib - device.reserved_mib) as circle:
        await run_circle(circle)
