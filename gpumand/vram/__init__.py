"""Implementations of the VramSource port, which provide VRAM readings.

``nvml`` reads NVIDIA's driver, ``simulated`` reads announcements of processes, ``no_source`` reads nothing.
``attribution`` wraps any of them and adds the unit and the consumer of each process. The package must not import the
arbiter or the bus.
"""

from __future__ import annotations

from dataclasses import replace

from gpumand.domain.consumer import GpuSettings
from gpumand.ports import Clock, VramSource


def make_source(settings: GpuSettings, clock: Clock) -> VramSource:
    """Create the source that the configuration names.

    Args:
        settings: the ``[gpu]`` table.
        clock: current time, for samples and for back-off.

    Raises:
        ValueError: there is no source of that name.
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


def source_changed(one: GpuSettings, other: GpuSettings) -> bool:
    """Return whether two settings need different sources; times make no difference."""
    return _without_times(one) != _without_times(other)


def _without_times(settings: GpuSettings) -> GpuSettings:
    return replace(settings, sample_interval_sec=0.0, idle_release_sec=0.0)
