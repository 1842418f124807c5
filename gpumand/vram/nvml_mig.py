"""MIG: a GPU that is cut into instances. Each instance is a device of its own, and the GPU itself is none then.

Memory belongs to a *GPU instance*. What NVML lists as MIG devices are the compute instances in it, which share its
memory: the first of them stands for the GPU instance, and processes of all of them are counted together.

Blocking; called in the library's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumand.vram.nvml_library import CallFailed, Code, NvmlLibrary

FIRST_INDEX = 100
"""Indices of instances begin here, and those of GPUs end below: a host has some 16 GPUs, and a GPU 7 instances."""

MAX_SLOTS = FIRST_INDEX
ENABLED = 1
NO_INSTANCE = (1 << 32) - 1
"""What NVML calls the instance of a process that is in none."""

NOT_CUT = frozenset({Code.NOT_SUPPORTED, Code.FUNCTION_NOT_FOUND, Code.INVALID_ARGUMENT})


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance.

    Attributes:
        index: of the device that it is.
        handles: NVML's handles of its compute instances; none where the first cannot be opened.
        number: NVML's number of it within its GPU; ``NO_INSTANCE`` where that cannot be told.
        failure: why there is no handle.
    """

    index: int
    handles: tuple[Any, ...] = ()
    number: int = NO_INSTANCE
    failure: CallFailed | None = None


def index_of(gpu: int, slot: int) -> int:
    """The device's index of a MIG device: 100 to 106 are those of GPU 0, 200 to 206 those of GPU 1."""
    return (gpu + 1) * FIRST_INDEX + slot


def gpu_of(index: int) -> int:
    """The GPU's index of a device."""
    return index // FIRST_INDEX - 1 if index >= FIRST_INDEX else index


def is_cut(library: NvmlLibrary, handle: Any) -> bool | None:
    """Whether a GPU is cut into instances; None where it cannot be. Raises CallFailed, LibraryFailed."""
    try:
        current, _ = library.call("nvmlDeviceGetMigMode", handle)
    except CallFailed as failure:
        if failure.code in NOT_CUT:
            return None
        raise
    return bool(current == ENABLED)


def instances(library: NvmlLibrary, gpu: int, handle: Any) -> list[Instance]:
    """The instances of a GPU that is cut; there may be none. Raises CallFailed, LibraryFailed."""
    slots = min(MAX_SLOTS, int(library.call("nvmlDeviceGetMaxMigDeviceCount", handle)))
    found: dict[object, Instance] = {}
    for slot in range(slots):
        one = _at(library, handle, slot, index_of(gpu, slot))
        if one is None:
            continue
        which: object = one.index if one.number == NO_INSTANCE else ("instance", one.number)
        first = found.get(which)
        found[which] = one if first is None else _joined(first, one)
    return list(found.values())


def _at(library: NvmlLibrary, gpu: Any, slot: int, index: int) -> Instance | None:
    try:
        handle = library.call("nvmlDeviceGetMigDeviceHandleByIndex", gpu, slot)
    except CallFailed as failure:
        # Slots are empty where there is no instance; only what else is wrong is worth telling.
        return None if failure.code in {Code.NOT_FOUND, Code.INVALID_ARGUMENT} else Instance(index, failure=failure)
    try:
        return Instance(index, (handle,), int(library.call("nvmlDeviceGetGpuInstanceId", handle)))
    except CallFailed:
        return Instance(index, (handle,))


def _joined(first: Instance, other: Instance) -> Instance:
    return Instance(first.index, (*first.handles, *other.handles), first.number)
