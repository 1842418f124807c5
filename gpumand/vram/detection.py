"""Finds out which sources of VRAM readings a host has, by files that every user may read.

All functions block; nothing is loaded, and no card is woken.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from gpumand.vram.sysfs import PCI_ADDRESS, Root, below, cards, read_text, read_word

NVIDIA_FILES = ("/proc/driver/nvidia/version", "/dev/dxg")
"""Present where NVIDIA's driver is loaded: its kernel module, or that of the Windows host below WSL 2."""

COMPATIBLE = "/proc/device-tree/compatible"
TEGRA = "nvidia,tegra"

PCI_DEVICES = "/sys/bus/pci/devices"
NVIDIA_VENDOR = "0x10de"
DISPLAY_CLASS = "0x03"
LIBRARY_CACHE = "/etc/ld.so.cache"
LIBRARY = "libnvidia-ml.so.1"
MAX_CACHE_BYTES = 4 << 20


def host_root() -> str:
    """Root of the file system whose sysfs and procfs are read: ``/``, or ``GPUMAND_HOST_ROOT`` in tests."""
    return os.environ.get("GPUMAND_HOST_ROOT") or "/"


def available_sources(root: Root = "/") -> tuple[str, ...]:
    """The sources for which the host has a driver, in the order of preference."""
    drivers = {card.driver for card in cards(root).values()}
    has_nvml = has_nvidia(root) or expects_nvidia(root)
    found = [has_nvml and "nvml", "amdgpu" in drivers and "amdgpu", "xe" in drivers and "xe"]
    return tuple(name for name in found if name)


def has_nvidia(root: Root = "/") -> bool:
    """Whether NVIDIA's driver is loaded; a Jetson has it in its kernel."""
    return any(os.path.exists(below(root, path)) for path in NVIDIA_FILES) or is_tegra(root)


def expects_nvidia(root: Root = "/") -> bool:
    """Whether the host has an NVIDIA card and the driver's library, although the module is not loaded.

    The module may be loaded later, or fail to load after an upgrade of the kernel. The card is the host's in both
    cases: consumers made for it must not be placed on another vendor's device, and its index must not depend on which
    module was loaded first.
    """
    return bool(nvidia_cards(root)) and LIBRARY in (read_text(below(root, LIBRARY_CACHE), MAX_CACHE_BYTES) or "")


def nvidia_cards(root: Root = "/") -> tuple[str, ...] | None:
    """PCI addresses of the NVIDIA cards that NVIDIA's driver has or may take; None if PCI devices cannot be listed.

    Cards that another driver has are not among them: vfio-pci passes them to a virtual machine, and nouveau is in use.
    """
    folder = below(root, PCI_DEVICES)
    try:
        names = sorted(name for name in os.listdir(folder) if PCI_ADDRESS.fullmatch(name))
    except OSError:
        return None
    return tuple(name for name in names if _is_nvidia_card(folder / name))


def _is_nvidia_card(device: Path) -> bool:
    if read_word(device / "vendor") != NVIDIA_VENDOR or not read_word(device / "class").startswith(DISPLAY_CLASS):
        return False
    try:
        return os.path.basename(os.readlink(device / "driver")) == "nvidia"
    except OSError:  # no driver has it
        return True


def is_tegra(root: Root = "/") -> bool:
    """Whether the host is a Jetson or another board with a Tegra processor."""
    return TEGRA in (read_text(below(root, COMPATIBLE)) or "")


def known_sources(root: Root, supported: Collection[str]) -> tuple[str, ...]:
    """The available sources among the supported ones."""
    return tuple(name for name in available_sources(root) if name in supported)
