"""The memory of one AMD card: which pool counts, and what of it is used and free. No files are read here."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.device import Pool
from gpumand.domain.gpu_settings import DeviceOptions, PoolChoice
from gpumand.vram.sysfs import MIB
from gpumand.vram.unified import DEFAULT_RESERVE_MIB, HostPool


@dataclass(frozen=True, slots=True)
class AmdMemory:
    """What the driver's files say about a card, in bytes; None = unreadable.

    Attributes:
        vram_total, vram_used: memory of the card, or the part of host RAM that the firmware sets aside for it.
        gtt_total, gtt_used: host RAM that the card can map.
        discrete: the card has a board or memory chips of its own.
        has_vram: the driver has the file ``mem_info_vram_total``; GPUs without VRAM lack it.
        shares_ram: earlier readings have shown that host RAM is its pool, which only the firmware can change.
    """

    vram_total: int | None
    vram_used: int | None
    gtt_total: int | None
    gtt_used: int | None
    discrete: bool = True
    has_vram: bool = True
    shares_ram: bool = False


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory in MiB; None = unknown, and then ``error`` says why."""

    total_mib: int | None
    used_mib: int | None
    free_mib: int | None
    pool: Pool
    error: str = ""


def uses_gtt(memory: AmdMemory, choice: PoolChoice = PoolChoice.AUTO) -> bool:
    """Whether the card's pool is host RAM.

    amdgpu itself places allocations of ROCm in GTT on an APU whose carve-out is smaller than GTT (``apu_prefer_gtt``).
    """
    if choice is not PoolChoice.AUTO:
        return choice is PoolChoice.GTT
    if not memory.has_vram:
        return memory.gtt_total is not None
    if memory.discrete or memory.vram_total is None or memory.gtt_total is None:
        return memory.shares_ram and not memory.discrete
    return memory.vram_total < memory.gtt_total


def device_memory(memory: AmdMemory, held_bytes: int, ram: HostPool, options: DeviceOptions) -> DeviceMemory:
    """The memory of a card.

    Args:
        memory: the driver's files.
        held_bytes: what the processes of KFD hold together. Memory that was moved out of a suspended card is missing
            in the driver's amount, but comes back at the next use.
        ram: host RAM, which bounds what a card without memory of its own can get.
        options: the configured options of the card.
    """
    if uses_gtt(memory, options.pool):
        return _gtt_memory(memory, ram, options)
    return _vram_memory(memory, held_bytes, options)


def _vram_memory(memory: AmdMemory, held_bytes: int, options: DeviceOptions) -> DeviceMemory:
    total, used = memory.vram_total, memory.vram_used
    if not total or used is None:
        error = f"amdgpu-unreadable: mem_info_vram_{'used' if total else 'total'} holds no amount of memory"
        return DeviceMemory(total // MIB if total else None, None, None, Pool.VRAM, error)
    # More used than there is would be a negative amount of free memory: the card is full.
    total_mib, used_mib = total // MIB, min(-(-max(used, held_bytes) // MIB), total // MIB)
    return DeviceMemory(total_mib, used_mib, max(0, total_mib - used_mib - (options.reserve_mib or 0)), Pool.VRAM)


def _gtt_memory(memory: AmdMemory, ram: HostPool, options: DeviceOptions) -> DeviceMemory:
    total, used = memory.gtt_total, memory.gtt_used
    if not total or used is None:
        error = f"amdgpu-unreadable: mem_info_gtt_{'used' if total else 'total'} holds no amount of memory"
        return DeviceMemory(total // MIB if total else None, None, None, Pool.UNIFIED, error)
    reserve_mib = DEFAULT_RESERVE_MIB if options.reserve_mib is None else options.reserve_mib
    total_mib = min(total // MIB, total // MIB if ram.total_mib is None else ram.total_mib)
    used_mib, left_mib = min(-(-used // MIB), total_mib), max(0, (total - used) // MIB)
    if ram.available_mib is None:
        return DeviceMemory(total_mib, used_mib, None, Pool.UNIFIED, "no-host-ram: /proc/meminfo has no MemAvailable")
    return DeviceMemory(total_mib, used_mib, max(0, min(left_mib, ram.available_mib) - reserve_mib), Pool.UNIFIED)
