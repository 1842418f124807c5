"""Where figures about VRAM come from: the VramSource port's real implementations.

``nvml`` reads NVIDIA's driver, ``simulated`` lets processes announce what they hold, ``none`` knows nothing and says
so; ``attribution`` wraps any of them and names the unit and the consumer of each process.
"""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.consumer import GpuSettings
from gpumand.ports import Clock, VramSource


def make_source(settings: GpuSettings, clock: Clock) -> VramSource:
    """Build the source that the configuration names.

    Args:
        settings: the ``[gpu]`` table.
        clock: time of samples and of back-off.

    Raises:
        ValueError: no source has that name.
    """
    if settings.source == "nvml":
        from gpumand.vram.nvml import NvmlSource

        return NvmlSource(clock)
    if settings.source == "simulated":
        from gpumand.vram.simulated import SimulatedSource

        return SimulatedSource(settings.simulated_total_mib, settings.simulated_dir, clock)
    if settings.source == "none":
        from gpumand.vram.no_source import NoSource

        return NoSource(settings.total_mib, clock)
    raise ValueError(f"no VRAM source is named {settings.source!r}")


def sources_differ(one: GpuSettings, other: GpuSettings) -> bool:
    """Whether figures come from elsewhere; how often they are read is no matter of theirs."""
    return replace(one, sample_interval_sec=0.0) != replace(other, sample_interval_sec=0.0)
