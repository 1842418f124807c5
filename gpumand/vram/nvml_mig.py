"""Finds the MIG instances of a GPU. With MIG enabled, each GPU instance is a device, and the GPU itself is not.

Memory belongs to a *GPU instance*. NVML lists the compute instances within it as MIG devices; they share its memory.
The first compute instance represents the GPU instance, and the processes of all of them are counted together.

All functions block; call them in the library's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumand.vram.nvml_library import CallFailed, Code, NvmlLibrary

FIRST_INDEX = 100
"""First index of MIG instances. Indices of GPUs are below it: a host has about 16 GPUs, and a GPU 7 instances."""

MAX_SLOTS = FIRST_INDEX
ENABLED = 1
NO_INSTANCE = (1 << 32) - 1
"""NVML's number of the instance of a process that belongs to none."""

MIG_UNSUPPORTED = frozenset({Code.NOT_SUPPORTED, Code.FUNCTION_NOT_FOUND, Code.INVALID_ARGUMENT})


@dataclass(frozen=True, slots=True)
class Instance:
    """A GPU instance of MIG.

    Attributes:
        index: index of the device.
        handles: NVML's handles of its compute instances; () if the first cannot be opened.
        number: NVML's number of the instance within its GPU; ``NO_INSTANCE`` if unknown.
        failure: why there is no handle.
    """

    index: int
    handles: tuple[Any, ...] = ()
    number: int = NO_INSTANCE
    failure: CallFailed | None = None


def index_of(gpu: int, slot: int) -> int:
    """Return the device index of a MIG device: 100 to 106 for GPU 0, 200 to 206 for GPU 1."""
    return (gpu + 1) * FIRST_INDEX + slot


def gpu_of(index: int) -> int:
    """Return the index of the GPU that a device belongs to."""
    return index // FIRST_INDEX - 1 if index >= FIRST_INDEX else index


def is_mig_enabled(library: NvmlLibrary, handle: Any) -> bool | None:
    """Return whether MIG is enabled on a GPU; None if the GPU does not support it. Raises CallFailed, LibraryFailed."""
    try:
        current = library.call(library.nvml.mig_mode, handle)
    except CallFailed as failure:
        if failure.code in MIG_UNSUPPORTED:
            return None
        raise
    return bool(current == ENABLED)


def instances(library: NvmlLibrary, gpu: int, handle: Any) -> list[Instance]:
    """Return the instances of a GPU with MIG enabled; there may be none. Raises CallFailed, LibraryFailed."""
    slots = min(MAX_SLOTS, library.call(library.nvml.max_mig_devices, handle))
    found: dict[object, Instance] = {}
    for slot in range(slots):
        one = _instance_at(library, handle, slot, index_of(gpu, slot))
        if one is None:
            continue
        # Compute instances with the same number share one GPU instance. Without a number each is a device of its own.
        key: object = one.index if one.number == NO_INSTANCE else ("instance", one.number)
        first = found.get(key)
        found[key] = one if first is None else _merged(first, one)
    return list(found.values())


def _instance_at(library: NvmlLibrary, gpu: Any, slot: int, index: int) -> Instance | None:
    try:
        handle = library.call(library.nvml.mig_device, gpu, slot)
    except CallFailed as failure:
        # These codes mean that the slot is empty. Any other code is a failure of an existing instance.
        return None if failure.code in {Code.NOT_FOUND, Code.INVALID_ARGUMENT} else Instance(index, failure=failure)
    try:
        return Instance(index, (handle,), library.call(library.nvml.gpu_instance, handle))
    except CallFailed:
        return Instance(index, (handle,))


def _merged(first: Instance, other: Instance) -> Instance:
    return Instance(first.index, (*first.handles, *other.handles), first.number)
