"""Reads one device through NVML: its memory and the processes that hold it.

All functions block; call them in the library's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

from gpumand.domain.device import Pool, ProcessUse, Sample
from gpumand.vram import nvml_mig
from gpumand.vram.nvml_binding import ProcessInfo
from gpumand.vram.nvml_host import NOT_SUPPORTED, NvmlHost
from gpumand.vram.nvml_library import LOST_GPU, CallFailed, Code, NvmlLibrary
from gpumand.vram.nvml_memory import Memory
from gpumand.vram.process import short_name
from gpumand.vram.process_names import ProcessNames
from gpumand.vram.reading_time import ReadingTime

MIB = 1 << 20
NOT_AVAILABLE = (1 << 64) - 1
"""NVML's value for "not available", which is the largest number and not zero."""

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
    processes, complete = _processes(library, names, device)
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
    return Memory(_floor_mib(info.total), _ceil_mib(info.used), _floor_mib(info.free))


@dataclass(frozen=True, slots=True)
class _ProcessList:
    """One of NVML's lists of processes.

    Attributes:
        function: NVML's function, without version suffix.
        always_supported: every driver has this list, so its absence is a failure.
        graphics: graphics processes; a MIG instance has none and may lack the list.
    """

    function: str
    always_supported: bool
    graphics: bool = False


LISTS = (
    _ProcessList("nvmlDeviceGetComputeRunningProcesses", always_supported=True),
    _ProcessList("nvmlDeviceGetGraphicsRunningProcesses", always_supported=True, graphics=True),
    _ProcessList("nvmlDeviceGetMPSComputeRunningProcesses", always_supported=False),
)


def _processes(library: NvmlLibrary, names: ProcessNames, device: Device) -> tuple[tuple[ProcessUse, ...], bool]:
    """Return the processes of all lists, one entry per pid, and whether the lists are complete."""
    found: dict[int, int | None] = {}
    complete = True
    for process_list, handle in product(LISTS, (device.handle, *device.other_handles)):
        try:
            _merge(found, _read_list(library, process_list.function, handle, device.instance))
        except CallFailed as failure:
            if failure.code in LOST_GPU:  # concerns the device, not this list
                raise
            unsupported = failure.code in (Code.FUNCTION_NOT_FOUND, Code.NOT_SUPPORTED)
            is_optional = not process_list.always_supported or (process_list.graphics and device.instance is not None)
            complete = complete and unsupported and is_optional
    return tuple(ProcessUse(pid, found[pid], names.name_of(pid)) for pid in sorted(found)), complete


def _merge(found: dict[int, int | None], processes: Iterable[tuple[int, int | None]]) -> None:
    """Add processes to ``found``; of two values for one pid, keep the larger one."""
    # A process that uses compute and graphics is in both lists with the same memory, so the values are not added.
    for pid, mib in processes:
        known = [value for value in (found.get(pid), mib) if value is not None]
        found[pid] = max(known) if known else None


def _read_list(library: NvmlLibrary, function: str, handle: Any, instance: int | None) -> list[tuple[int, int | None]]:
    try:
        entries = _call_until_it_fits(library, f"{function}_v3", handle)
    except CallFailed as failure:
        if failure.code != Code.FUNCTION_NOT_FOUND:
            raise
        entries = _call_until_it_fits(library, f"{function}_v2", handle)
    own = [entry for entry in entries if instance is None or _belongs_to(entry, instance)]
    return [(int(entry.pid), _ceil_mib(entry.usedGpuMemory)) for entry in own]


def _belongs_to(entry: Any, instance: int) -> bool:
    """Return whether a process belongs to a MIG instance."""
    # Some drivers list the processes of the whole GPU for each of its instances.
    return nvml_mig.NO_INSTANCE in (instance, number := getattr(entry, "gpuInstanceId", instance)) or number == instance


def _call_until_it_fits(library: NvmlLibrary, function: str, handle: Any, tries: int = 3) -> list[ProcessInfo]:
    """Call a list function, with retries if the list grows during the call."""
    # The length is queried first and then the list. A process that appears in between makes the buffer too small.
    for tries_left in reversed(range(tries)):
        try:
            return library.call(library.nvml.processes, function, handle)
        except CallFailed as failure:
            if failure.code != Code.INSUFFICIENT_SIZE or not tries_left:
                raise
    raise AssertionError("unreachable")


def _floor_mib(value: int | None) -> int | None:
    return None if value in (None, NOT_AVAILABLE) else int(value) // MIB


def _ceil_mib(value: int | None) -> int | None:
    """Convert used bytes to MiB, rounded up, so that a small amount does not become zero."""
    return None if value in (None, NOT_AVAILABLE) else -(-int(value) // MIB)
