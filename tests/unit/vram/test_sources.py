"""Selection of the configured source, and the source without readings."""

from __future__ import annotations

import pytest

from gpumand.domain.gpu_settings import GpuSettings
from gpumand.testing.clock import FakeClock
from gpumand.vram import make_source
from gpumand.vram.nvml import Backoff, NvmlSource
from gpumand.vram.simulated import SimulatedSource


async def test_source_is_created_by_its_name(tmp_path: object) -> None:
    clock = FakeClock()
    nvml = make_source(GpuSettings("nvml"), clock)
    assert isinstance(nvml, NvmlSource)
    simulated = make_source(GpuSettings("simulated", simulated_total_mib=(1, 2), simulated_dir=str(tmp_path)), clock)
    assert isinstance(simulated, SimulatedSource)
    assert [device.total_mib for device in (await simulated.read()).devices] == [1, 2]
    for source in (nvml, simulated):
        await source.close()
    with pytest.raises(ValueError, match="'cuda'"):
        make_source(GpuSettings("cuda"), clock)


@pytest.mark.parametrize("total_mib", [None, 24564])
async def test_source_none_reports_only_the_configured_size(total_mib: int | None) -> None:
    clock = FakeClock(start_sec=7.0)
    source = make_source(GpuSettings("none", total_mib=total_mib), clock)
    reading = await source.read()
    [sample] = reading.devices
    assert reading.error.startswith("no-source: ")
    assert sample.error == reading.error
    assert (sample.index, sample.uuid, sample.name, sample.source) == (0, "none", "no VRAM source", "none")
    assert (sample.total_mib, sample.used_mib, sample.free_mib) == (total_mib, None, None)
    assert (sample.is_measured, sample.attributed, sample.taken_at) == (False, False, 7.0)
    await source.close()


def test_backoff_doubles_up_to_a_minute() -> None:
    backoff, now, delays = Backoff(), 100.0, []
    assert backoff.due(now)
    for _ in range(9):
        backoff.failed(now)
        delay = next(step / 2 for step in range(1, 1000) if backoff.due(now + step / 2))
        delays.append(delay)
        now += delay
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert backoff.waiting
    backoff.succeeded()
    assert backoff.due(now)
    assert not backoff.waiting
