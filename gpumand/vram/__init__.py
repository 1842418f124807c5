"""Implementations of the VramSource port, which provide VRAM readings.

``nvml`` reads NVIDIA's driver, ``amdgpu`` and ``xe`` read AMD and Intel cards, ``simulated`` reads announcements of
processes, and ``no_source`` reads nothing. ``several`` combines sources, and ``auto`` uses those that the host has.
``attribution`` wraps any of them and adds the unit and the consumer of each process. The package must not import the
arbiter or the bus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gpumand.domain.gpu_settings import GpuSettings
from gpumand.ports import Clock, VramSource
from gpumand.vram.detection import host_root
from gpumand.vram.sysfs import Root

Factory = Callable[[GpuSettings, Clock, Root], VramSource]


def make_source(settings: GpuSettings, clock: Clock, root: Root | None = None) -> VramSource:
    """Create the source that the configuration names.

    Args:
        settings: the ``[gpu]`` table.
        clock: current time, for samples and for back-off.
        root: root of the file system whose sysfs and procfs are read; None = that of the host.

    Raises:
        ValueError: there is no source of that name.
    """
    root = host_root() if root is None else root
    if settings.sources == ("auto",):
        from gpumand.vram.auto import AutoSource

        return AutoSource(
            lambda name: _make_one(name, settings, clock, root),
            [name for name in FACTORIES if name not in ("simulated", "none")],
            clock,
            root=root,
            total_mib=settings.total_mib,
            options=settings.device,
        )
    sources = [_make_one(name, settings, clock, root) for name in settings.sources]
    if len(sources) == 1 and not settings.device:
        return sources[0]
    from gpumand.vram.several import SeveralSources

    return SeveralSources(sources, clock, settings.device)


def _make_one(name: str, settings: GpuSettings, clock: Clock, root: Root) -> VramSource:
    if name not in FACTORIES:
        raise ValueError(f"no VRAM source is named {name!r}")
    return FACTORIES[name](settings, clock, root)


def _nvml(settings: GpuSettings, clock: Clock, root: Root) -> VramSource:
    from gpumand.vram.nvml import NvmlSource

    return NvmlSource(clock, root, settings.device)


def _amdgpu(settings: GpuSettings, clock: Clock, root: Root) -> VramSource:
    from gpumand.vram.amdgpu import AmdgpuSource

    return AmdgpuSource(clock, root, settings.device)


def _xe(settings: GpuSettings, clock: Clock, root: Root) -> VramSource:
    from gpumand.vram.xe import XeSource

    return XeSource(clock, root, settings.device)


def _simulated(settings: GpuSettings, clock: Clock, root: Root) -> VramSource:
    from gpumand.vram.simulated import SimulatedSource

    return SimulatedSource(settings.simulated_total_mib, settings.simulated_dir, clock)


def _none(settings: GpuSettings, clock: Clock, root: Root) -> VramSource:
    from gpumand.vram.no_source import NoSource

    return NoSource(settings.total_mib, clock)


FACTORIES: dict[str, Factory] = {
    "nvml": _nvml,
    "amdgpu": _amdgpu,
    "xe": _xe,
    "simulated": _simulated,
    "none": _none,
}
"""How each source is created; a source is imported only where it is used."""


def source_changed(one: GpuSettings, other: GpuSettings) -> bool:
    """Return whether two settings need different sources; times make no difference."""
    return _without_times(one) != _without_times(other)


def _without_times(settings: GpuSettings) -> GpuSettings:
    return replace(settings, sample_interval_sec=0.0, idle_release_sec=0.0)
