"""Reads one device through NVML: its memory and the processes that hold it.

All functions block; call them in the library's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from gpumand.domain.device import Pool, Sample
from gpumand.vram import nvml_mig
from gpumand.vram.nvml_host import NOT_SUPPORTED, NvmlHost
from gpumand.vram.nvml_library import LOST_GPU, CallFailed, Code, NvmlLibrary
from gpumand.vram.nvml_memory import MIB, NOT_AVAILABLE, Memory, ceil_mib
from gpumand.vram.nvml_processes import believable, read_processes
from gpumand.vram.process import short_name
from gpumand.vram.process_names import ProcessNames
from gpumand.vram.reading_time import ReadingTime

UNSUPPORTED_VERSION = frozenset({Code.FUNCTION_NOT_FOUND, Code.INVALID_ARGUMENT, Code.ARGUMENT_VERSION_MISMATCH})


@dataclass(frozen=True, slots=True)
class Device:
    """A device as found by ``find_devices``.

    Attributes:
        index: NVML's index; for a MIG instance the index from ``nvml_mig.index_of``.
        uuid, name: "" if the driver has never reported them.
        handle: NVML's handle; None if the device could not be opened.
        failure: why there is no handle.
        other_handles: handles of further compute instances that share the device's memory.
        instance: NVML's number of the GPU instance; None for a whole GPU.
    """

    index: int
    uuid: str
    name: str
    handle: Any = None
    failure: CallFailed | None = None
    other_handles: tuple[Any, ...] = ()
    instance: int | None = None


@dataclass(frozen=True, slots=True)
class GpuDevices:
    """The devices of one GPU.

    Attributes:
        devices: the GPU itself, or its MIG instances.
        mig_possible: the GPU supports MIG, so instances may appear and disappear while the driver runs.
    """

    devices: tuple[Device, ...]
    mig_possible: bool = False


def find_devices(library: NvmlLibrary, gpu: int, before: Mapping[int, Device]) -> GpuDevices:
    """Find the devices of a GPU.

    Args:
        library: the initialised library.
        gpu: NVML's index of the GPU.
        before: the devices found earlier, by index; a device that cannot be opened keeps its UUID and name from there.

    Raises:
        LibraryFailed: the library cannot be used.
    """
    try:
        handle = library.call(library.nvml.device, gpu)
        mig_enabled = nvml_mig.is_mig_enabled(library, handle)
        if mig_enabled:
            parts = nvml_mig.instances(library, gpu, handle)
            return GpuDevices(
                tuple(_mig_device(library, one, before.get(one.index)) for one in parts), mig_possible=True
            )
        return GpuDevices((_with_names(library, Device(gpu, "", "", handle)),), mig_possible=mig_enabled is not None)
    except CallFailed as failure:
        known = [one for index, one in before.items() if nvml_mig.gpu_of(index) == gpu] or [Device(gpu, "", "")]
        return GpuDevices(tuple(Device(one.index, one.uuid, one.name, failure=failure) for one in known))


def _mig_device(library: NvmlLibrary, one: nvml_mig.Instance, before: Device | None) -> Device:
    failure = one.failure
    if failure is None:
        handle, *other_handles = one.handles
        try:
            return _with_names(library, Device(one.index, "", "", handle, None, tuple(other_handles), one.number))
        except CallFailed as failed:
            failure = failed
    return Device(one.index, before.uuid if before else "", before.name if before else "", failure=failure)


def _with_names(library: NvmlLibrary, device: Device) -> Device:
    nvml = library.nvml
    uuid, name = library.call(nvml.uuid, device.handle), library.call(nvml.name, device.handle)
    return replace(device, uuid=uuid, name=short_name(name))


def read_device(
    library: NvmlLibrary, names: ProcessNames, host: NvmlHost, device: Device, reading_time: ReadingTime
) -> Sample:
    """Read a device, with what the host adds to it; its failure is reported in the sample. Raises LibraryFailed."""
    try:
        if device.failure is not None:
            raise device.failure
        return _read(library, names, host, device, reading_time)
    except CallFailed as failure:
        return _failed(device, failure, reading_time)


def _read(
    library: NvmlLibrary, names: ProcessNames, host: NvmlHost, device: Device, reading_time: ReadingTime
) -> Sample:
    memory, error = host.complete(device.uuid, device.name, *_read_memory(library, host, device))
    handles = (device.handle, *device.other_handles)
    processes, complete = read_processes(library, names, handles, device.instance)
    processes = believable(processes, memory)
    sample = Sample(
        index=device.index,
        uuid=device.uuid,
        name=device.name,
        source="nvml",
        total_mib=memory.total_mib,
        used_mib=memory.used_mib,
        free_mib=memory.free_mib,
        processes=processes,
        attributed=complete and all(process.used_mib is not None for process in processes),
        taken_at=reading_time.monotonic,
        sampled_usec=reading_time.realtime_usec,
        error=error,
        attribution="nvml",
        aliases=host.aliases(device.uuid),
        pool=memory.pool,
        integrated=memory.pool is not Pool.VRAM,
        # Free memory of the host rises and falls with every program: only the victim's own memory proves anything.
        proves_release=memory.pool is Pool.VRAM,
    )
    # The kernel does not count MIG instances.
    return sample if device.instance is not None else host.with_unnamed_units(sample)


def _failed(device: Device, failure: CallFailed, reading_time: ReadingTime) -> Sample:
    lost = next((text for code, text in LOST_GPU.items() if code == failure.code), "")
    return Sample(
        index=device.index,
        uuid=device.uuid,
        name=device.name,
        source="nvml",
        total_mib=None,
        used_mib=None,
        free_mib=None,
        taken_at=reading_time.monotonic,
        sampled_usec=reading_time.realtime_usec,
        lost=bool(lost),
        error=lost or f"nvml-error: {failure}",
    )


def _read_memory(library: NvmlLibrary, host: NvmlHost, device: Device) -> tuple[Memory, str]:
    """Return the memory and an error message; both are set if NVML has no memory information for the device."""
    # Devices with unified memory (GB10) report no memory of their own, but they list processes.
    try:
        memory = _memory_info(library, device.handle)
    except CallFailed as failure:
        if failure.code != Code.NOT_SUPPORTED:
            raise
        return Memory(None, None, None), f"{NOT_SUPPORTED}: {failure}"
    if device.instance is not None:  # MIG instances have no memory partitions
        return memory, ""

    def read(call: Callable[[NvmlLibrary, Any], Any]) -> Memory:
        return _checked(call(library, device.handle))

    return host.whole_memory(device.uuid, memory, partial(read, _call_v1), partial(read, _call_v2)), ""


def _memory_info(library: NvmlLibrary, handle: Any) -> Memory:
    # Version 2 reports the driver's reserve separately; version 1 includes it in the used memory.
    try:
        info = _call_v2(library, handle)
    except CallFailed as failure:
        if failure.code not in UNSUPPORTED_VERSION | {Code.NOT_SUPPORTED}:
            raise
        info = _call_v1(library, handle)
    return _checked(info)


def _call_v1(library: NvmlLibrary, handle: Any) -> Any:
    return library.call(library.nvml.memory, handle)


def _call_v2(library: NvmlLibrary, handle: Any) -> Any:
    return library.call(library.nvml.memory_v2, handle)


def _checked(info: Any) -> Memory:
    # A total of 0 means that the driver has no value: unknown is not zero.
    if info.total in (0, NOT_AVAILABLE):
        raise CallFailed(Code.NOT_SUPPORTED, f"the driver reports a total of {info.total} bytes")
    return Memory(_floor_mib(info.total), ceil_mib(info.used), _floor_mib(info.free))


def _floor_mib(value: int | None) -> int | None:
    return None if value in (None, NOT_AVAILABLE) else int(value) // MIB
