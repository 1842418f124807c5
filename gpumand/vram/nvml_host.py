"""What the host's files add to NVML: memory of GPUs that have none of their own, and PCI addresses.

A GPU with its own memory needs none of the files but the list of PCI addresses, which is read once for each GPU.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

from gpumand.domain.device import Pool, Sample, error_word
from gpumand.domain.gpu_settings import NamedOptions, options_of
from gpumand.vram.detection import is_tegra
from gpumand.vram.dmem import UNEXPLAINED_MIB, DmemReader
from gpumand.vram.nvml_memory import Memory
from gpumand.vram.nvml_partition import PartitionGuard, ReadMemory
from gpumand.vram.sysfs import Root, below, read_pairs
from gpumand.vram.unified import DEFAULT_RESERVE_MIB, read_pool

GPUS = "/proc/driver/nvidia/gpus"
DRIVER = "/proc/driver/nvidia/version"
MISSING = "nvml-library-missing"
NOT_SUPPORTED = "memory-info-not-supported"
MAX_GPUS = 64
SMALL_PART = 4
"""An integrated GPU that reports less than a quarter of host RAM as its total reports only a part of its pool."""

_INTEGRATED = re.compile(r"\b(GB10|Thor|Orin|Xavier|Tegra|Jetson|N1X)\b", re.IGNORECASE)

_WITH_MEMORY = re.compile(
    r"\b(GeForce|RTX|GTX|GT|TITAN|Quadro|Tesla|GRID|NVS|CMP|Graphics Device|PG[0-9]{3}|G[BH][23]00"
    r"|[ABHLTVPKM][0-9]{1,4}[A-Z]{0,3})\b",
    re.IGNORECASE,
)
"""Product lines with memory of their own: GeForce RTX 4090, Tesla T4, A100-SXM4-80GB, H200, L40S, GB200, CMP 170HX …
"Graphics Device" and board numbers (PG506) are cards that the driver does not know by name."""


class NvmlHost:
    """Completes what NVML reports about a device. All methods block; call them in the library's thread."""

    def __init__(self, root: Root = "/", options: NamedOptions = ()) -> None:
        self._root = root
        self._options = options
        self._with_memory: set[str] = set()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._partitions = PartitionGuard(root)
        self._dmem = DmemReader(root)

    def complete(self, uuid: str, name: str, memory: Memory, error: str) -> tuple[Memory, str]:
        """The memory of a device, from host RAM where the GPU has none of its own, and the error that is left.

        Args:
            uuid, name: of the device.
            memory: what NVML reports.
            error: why NVML reports none; "" if it does.
        """
        options = options_of((uuid, *self.aliases(uuid)), self._options)
        if error.startswith(NOT_SUPPORTED):
            # A GPU that once reported memory of its own has it still, and so has one whose name says so: the answer is
            # then a failure of the driver, and host RAM must not pass for free VRAM.
            is_unified = uuid not in self._with_memory and not _has_own_memory(name)
        else:
            is_unified = self._reports_a_part(name, memory)
        if not is_unified:
            if not error:
                self._with_memory.add(uuid)
            return _with_reserve(memory, options.reserve_mib or 0), error
        pool = read_pool(self._root)
        reserve_mib = DEFAULT_RESERVE_MIB if options.reserve_mib is None else options.reserve_mib
        free_mib = pool.free_mib(reserve_mib)
        found = Memory(pool.total_mib, pool.used_mib, free_mib, Pool.UNIFIED)
        return found, "" if free_mib is not None and pool.total_mib is not None else error or "no-host-ram: unreadable"

    def explained(self, error: str) -> str:
        """The error of a library that is missing, or another one where a driver is loaded that it should read.

        Without a driver there is no source of readings. With one, memory may be in use that nothing can see.
        """
        is_missing = error_word(error) == MISSING
        # A Jetson has the driver for its displays, and its GPU needs no library to be read.
        if not is_missing or not below(self._root, DRIVER).exists() or is_tegra(self._root):
            return error
        return f"driver-unreadable: NVIDIA's driver is loaded, but cannot be read: {error.partition(': ')[2]}"

    def whole_memory(self, uuid: str, memory: Memory, read_v1: ReadMemory, read_v2: ReadMemory) -> Memory:
        """The memory of a whole device, where NVML shows only the daemon's memory partition; see PartitionGuard."""
        return self._partitions.correct(uuid, next(iter(self.aliases(uuid)), ""), memory, read_v1, read_v2)

    def with_unnamed_units(self, sample: Sample) -> Sample:
        """The sample with the units that hold memory for which the driver names no process, such as containers.

        They come from the kernel's dmem controller, which knows NVIDIA's cards since driver R615. It is read only if
        there is such memory. The driver's processes stay what counts for their units.
        """
        if sample.used_mib is None or sample.pool is not Pool.VRAM or not sample.aliases:
            return sample
        if sample.used_mib - sum(one.used_mib or 0 for one in sample.processes) <= UNEXPLAINED_MIB:
            return sample
        amounts = self._dmem.read().get(sample.aliases[0])
        return sample if amounts is None else replace(sample, processes=(*sample.processes, *amounts.processes))

    def aliases(self, uuid: str) -> tuple[str, ...]:
        """The PCI address of a GPU, with and without ``PCI-``; () if it is unknown."""
        if uuid not in self._addresses:
            self._addresses |= {uuid: (), **self._read_addresses()}
        return self._addresses[uuid]

    def _read_addresses(self) -> dict[str, tuple[str, ...]]:
        folder = below(self._root, GPUS)
        try:
            names = sorted(os.listdir(folder))[:MAX_GPUS]
        except OSError:
            return {}
        uuids = {name: read_pairs(folder / name / "information", ":").get("GPU UUID", "") for name in names}
        return {uuid: (bdf.lower(), f"PCI-{bdf.lower()}") for bdf, uuid in uuids.items() if uuid}

    def _reports_a_part(self, name: str, memory: Memory) -> bool:
        """Whether an integrated GPU reports a total that is only a small part of the pool that it uses."""
        if not _INTEGRATED.search(name) or memory.total_mib is None:
            return False
        ram_mib = read_pool(self._root).total_mib
        return ram_mib is not None and memory.total_mib < ram_mib // SMALL_PART


def _has_own_memory(name: str) -> bool:
    return bool(_WITH_MEMORY.search(name)) and not _INTEGRATED.search(name)


def _with_reserve(memory: Memory, reserve_mib: int) -> Memory:
    if not reserve_mib or memory.free_mib is None:
        return memory
    return Memory(memory.total_mib, memory.used_mib, max(0, memory.free_mib - reserve_mib), memory.pool)
