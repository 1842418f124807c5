"""Tests with real NVML and real CUDA; they need an NVIDIA driver and PyTorch (tests/gpu/run.sh provides the rest)."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumand.host.clock import SystemClock
from gpumand.vram.nvml import NvmlSource
from tests.gpu.scenario import Place, gpu_setup, run_scenario

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(570)]


async def free_mib() -> int:
    source = NvmlSource(SystemClock())
    try:
        reading = await source.read()
        assert reading.error == ""
        sample = reading.devices[0]
        print(f"{sample.name}: {sample.used_mib} of {sample.total_mib} MiB used, attributed: {sample.attributed}")
        assert sample.free_mib is not None
        return sample.free_mib
    finally:
        await source.close()


async def test_memory_of_the_real_driver_is_read() -> None:
    """The reading has no error, and free memory is known."""
    assert await free_mib() > 0


async def test_evictions_settle_and_loads_fit_on_a_real_gpu(tmp_path: Path) -> None:
    async with gpu_setup(tmp_path, Place("cuda"), await free_mib()) as setup:
        await run_scenario(setup)
