"""Finds out which sources of VRAM readings a host has, by files that every user may read.

All functions block; nothing is loaded, and no card is woken.
"""

from __future__ import annotations

import os
from collections.abc import Collection

from gpumand.vram.sysfs import Root, below, cards, read_text

NVIDIA_FILES = ("/proc/driver/nvidia/version", "/dev/dxg")
"""Present where NVIDIA's driver is loaded: its kernel module, or that of the Windows host below WSL 2."""

COMPATIBLE = "/proc/device-tree/compatible"
TEGRA = "nvidia,tegra"


def host_root() -> str:
    """Root of the file system whose sysfs and procfs are read: ``/``, or ``GPUMAND_HOST_ROOT`` in tests."""
    return os.environ.get("GPUMAND_HOST_ROOT") or "/"


def available_sources(root: Root = "/") -> tuple[str, ...]:
    """The sources for which the host has a driver, in the order of preference."""
    drivers = {card.driver for card in cards(root).values()}
    found = [has_nvidia(root) and "nvml", "amdgpu" in drivers and "amdgpu", "xe" in drivers and "xe"]
    return tuple(name for name in found if name)


def has_nvidia(root: Root = "/") -> bool:
    """Whether NVIDIA's driver is loaded; a Jetson has it in its kernel."""
    return any(os.path.exists(below(root, path)) for path in NVIDIA_FILES) or is_tegra(root)


def is_tegra(root: Root = "/") -> bool:
    """Whether the host is a Jetson or another board with a Tegra processor."""
    return TEGRA in (read_text(below(root, COMPATIBLE)) or "")


def known_sources(root: Root, supported: Collection[str]) -> tuple[str, ...]:
    """The available sources among the supported ones."""
    return tuple(name for name in available_sources(root) if name in supported)
