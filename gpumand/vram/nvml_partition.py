"""Notices that NVML shows only a part of a GPU: the memory partition that the daemon itself is in.

Since driver R615 a cgroup may have limits for the memory of an NVIDIA GPU. Version 2 of nvmlDeviceGetMemoryInfo is then
"modified to account for cgroup memory partitions when called within the partition" (NVML change log), so that the GPU
seems to be as small as the limit. Version 1 is not named there. The two versions are compared at times. Where they
differ, the memory comes from the kernel's dmem controller, which shows the whole device, or else from version 1.

How version 2 is changed exactly was never seen on hardware.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gpumand.vram.dmem import pci_address, regions
from gpumand.vram.dmem_walk import CGROUPS, read_amounts
from gpumand.vram.nvml_library import CallFailed
from gpumand.vram.nvml_memory import Memory
from gpumand.vram.sysfs import MIB, Root, below, read_text

log = logging.getLogger(__name__)

INTERVAL = 30
"""Samples of a device between two comparisons."""

TOLERATED_MIB = 256
"""Difference of the two versions that is none; programs allocate memory between two calls."""

NVIDIA = "nvidia/"
PARTITIONED = "figures-partitioned"
"""Keyword of the log message."""

FIRST_DRIVER = 615
UNLIMITED = {"dmem.max": "max", "dmem.min": "0", "dmem.low": "0"}
"""File of a cgroup -> what it contains where there is no limit."""

_DRIVER = re.compile(r"\b([0-9]{3,4})\.[0-9]+")

ReadMemory = Callable[[], Memory]


@dataclass(slots=True)
class _Watched:
    """What is known of one device.

    Attributes:
        samples: samples that were taken.
        had_limits: whether the daemon's cgroups had limits at the last sample.
        is_partitioned: whether the two versions differed at the last comparison.
        is_logged: whether that was logged.
    """

    samples: int = 0
    had_limits: bool = False
    is_partitioned: bool = False
    is_logged: bool = False


class PartitionGuard:
    """Compares the two versions of a device's memory. All methods block; call them in the library's thread."""

    def __init__(self, root: Root = "/") -> None:
        self._root = root
        self._capacity = str(below(root, CGROUPS) / "dmem.capacity")
        self._watched: dict[str, _Watched] = {}

    def correct(self, uuid: str, bdf: str, memory: Memory, read_v1: ReadMemory, read_v2: ReadMemory) -> Memory:
        """The memory of the whole device.

        Args:
            uuid: of the device.
            bdf: its PCI address; "" if unknown.
            memory: what version 2 reports.
            read_v1, read_v2: read one of the versions. May raise CallFailed.

        Raises:
            CallFailed: the device is known to be partitioned, and nothing shows all of its memory.
        """
        if memory.total_mib is None:
            return memory
        watched = self._watched.setdefault(uuid, _Watched())
        if self._is_due(watched):
            watched.is_partitioned = _differ(memory, read_v1, read_v2)
        if not watched.is_partitioned:
            return memory
        whole = self._whole(bdf) or read_v1()
        if not watched.is_logged:
            watched.is_logged = True
            log.warning("%s: %s", PARTITIONED, _explanation(uuid, memory, whole))
        return whole

    def _is_due(self, watched: _Watched) -> bool:
        # Most kernels have no such controller, and this is asked with every reading.
        has_limits = os.path.exists(self._capacity) and has_own_limits(self._root)
        is_due = watched.samples % INTERVAL == 0 or has_limits != watched.had_limits
        watched.samples, watched.had_limits = watched.samples + 1, has_limits
        return is_due and may_partition(self._root)

    def _whole(self, bdf: str) -> Memory | None:
        """The memory of a device by the kernel's controller; None where that has none."""
        own = {region: size for region, size in regions(self._root).items() if region.startswith(NVIDIA)}
        own = {region: size for region, size in own.items() if pci_address(region) == bdf}
        current = read_amounts(below(self._root, CGROUPS) / "dmem.current") or {}
        used = [current.get(region) for region in own]
        known = [one for one in used if one is not None]
        if not own or len(known) < len(used):
            return None
        total_mib = sum(own.values()) // MIB
        used_mib = min(total_mib, -(-sum(known) // MIB))
        return Memory(total_mib, used_mib, total_mib - used_mib)


def may_partition(root: Root = "/") -> bool:
    """Whether the loaded driver may have memory partitions: R615 and later, and versions that cannot be read."""
    found = _DRIVER.search(read_text(below(root, "/proc/driver/nvidia/version")) or "")
    return found is None or int(found[1]) >= FIRST_DRIVER


def has_own_limits(root: Root = "/") -> bool:
    """Whether a cgroup that this process is in limits or protects memory of an NVIDIA GPU."""
    if not any(region.startswith(NVIDIA) for region in regions(root)):
        return False
    lines = (read_text(below(root, "/proc/self/cgroup")) or "").splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    parts = [part for part in path.split("/") if part not in ("", "..")]
    chain = ("/".join(parts[:count]) for count in range(1, len(parts) + 1))
    return any(_has_limit(below(root, CGROUPS) / cgroup) for cgroup in chain)


def _has_limit(cgroup: Path) -> bool:
    texts = ((read_text(cgroup / name) or "", unlimited) for name, unlimited in UNLIMITED.items())
    lines = ((line.split(), unlimited) for text, unlimited in texts for line in text.splitlines())
    return any(len(words) == 2 and words[0].startswith(NVIDIA) and words[1] != unlimited for words, unlimited in lines)


def _differ(memory: Memory, read_v1: ReadMemory, read_v2: ReadMemory) -> bool:
    """Whether the two versions show different devices.

    Programs allocate and free memory between the calls. A partition shifts version 2 in one direction, so that version
    1 is not between two values of version 2.
    """
    try:
        whole = read_v1()
        if _is_far(whole.total_mib, memory.total_mib):
            return True
        if not _is_far(whole.free_mib, memory.free_mib):
            return False
        again = read_v2()
    except CallFailed:  # without version 1 there is nothing to compare, and the reading itself succeeded
        return False
    shifts = [(whole.free_mib or 0) - (one.free_mib or 0) for one in (memory, again)]
    return all(shift > TOLERATED_MIB for shift in shifts) or all(shift < -TOLERATED_MIB for shift in shifts)


def _is_far(one: int | None, other: int | None) -> bool:
    return one is not None and other is not None and abs(one - other) > TOLERATED_MIB


def _explanation(uuid: str, part: Memory, whole: Memory) -> str:
    return (
        f"the driver shows {part.total_mib} MiB of {uuid} and {part.free_mib} MiB of them free, since a cgroup has "
        f"limits for GPU memory. gpumand uses all {whole.total_mib} MiB, of which {whole.free_mib} MiB are free. To "
        "remove the limits of all cgroups, set NVreg_RegistryDwords=RmMemacctMode=0 for the module nvidia"
    )
