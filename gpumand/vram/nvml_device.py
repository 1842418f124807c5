"""One device through NVML: its figures and who holds them.

Blocking; called in the library's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from gpumand.domain.device import ProcessUse, Sample
from gpumand.vram import nvml_mig
from gpumand.vram.nvml_library import CallFailed, Code, NvmlLibrary
from gpumand.vram.process import command_name, short_name
from gpumand.vram.reading_time import ReadingTime

MIB = 1 << 20
NOT_AVAILABLE = (1 << 64) - 1
"""NVML's "no figure": the largest number, not zero."""

NO_SUCH_VERSION = frozenset({Code.FUNCTION_NOT_FOUND, Code.INVALID_ARGUMENT, Code.ARGUMENT_VERSION_MISMATCH})


@dataclass(frozen=True, slots=True)
class Device:
    """A device as found when the library was initialised.

    Attributes:
        index: NVML's index, or of a MIG instance what ``nvml_mig`` makes of it.
        uuid, name: "" where the driver would not say and never said before.
        handle: NVML's handle; None where there is none.
        failure: why there is no handle.
        beside: handles of further compute instances that share its memory.
        instance: NVML's number of the GPU instance that it is; None where it is a whole GPU.
    """

    index: int
    uuid: str
    name: str
    handle: Any = None
    failure: CallFailed | None = None
    beside: tuple[Any, ...] = ()
    instance: int | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Figures of one device in MiB; None = unknown. ``used`` counts the driver's reserve only where NVML is old."""

    total_mib: int | None
    used_mib: int | None
    free_mib: int | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a GPU turned out to be.

    Attributes:
        devices: itself, or its MIG instances.
        may_change: it can be cut into instances, which happens while the driver runs.
    """

    devices: tuple[Device, ...]
    may_change: bool = False


def find_devices(library: NvmlLibrary, gpu: int, before: Mapping[int, Device]) -> Found:
    """Look a GPU up; what cannot be opened keeps the names it had. Raises LibraryFailed."""
    try:
        handle = library.call("nvmlDeviceGetHandleByIndex", gpu)
        cut = nvml_mig.is_cut(library, handle)
        if cut:
            parts = nvml_mig.instances(library, gpu, handle)
            return Found(tuple(_instance(library, one, before.get(one.index)) for one in parts), may_change=True)
        return Found((_opened(library, Device(gpu, "", "", handle)),), may_change=cut is not None)
    except CallFailed as failure:
        known = [one for index, one in before.items() if nvml_mig.gpu_of(index) == gpu] or [Device(gpu, "", "")]
        return Found(tuple(Device(one.index, one.uuid, one.name, failure=failure) for one in known))


def _instance(library: NvmlLibrary, one: nvml_mig.Instance, before: Device | None) -> Device:
    failure = one.failure
    if failure is None:
        handle, *beside = one.handles
        try:
            return _opened(library, Device(one.index, "", "", handle, None, tuple(beside), one.number))
        except CallFailed as failed:
            failure = failed
    return Device(one.index, before.uuid if before else "", before.name if before else "", failure=failure)


def _opened(library: NvmlLibrary, device: Device) -> Device:
    uuid, name = library.call("nvmlDeviceGetUUID", device.handle), library.call("nvmlDeviceGetName", device.handle)
    return replace(device, uuid=str(uuid), name=short_name(str(name)))


def read_device(library: NvmlLibrary, device: Device, stamp: ReadingTime) -> Sample:
    """Take a sample; what fails is said in it. Raises LibraryFailed."""
    try:
        if device.failure is not None:
            raise device.failure
        return _read(library, device, stamp)
    except CallFailed as failure:
        return _failed(device, failure, stamp)


def _read(library: NvmlLibrary, device: Device, stamp: ReadingTime) -> Sample:
    memory, error = _memory_or_why_not(library, device.handle)
    processes, complete = _processes(library, device)
    return Sample(
        index=device.index,
        uuid=device.uuid,
        name=device.name,
        source="nvml",
        total_mib=memory.total_mib,
        used_mib=memory.used_mib,
        free_mib=memory.free_mib,
        processes=processes,
        attributed=complete and all(process.used_mib is not None for process in processes),
        taken_at=stamp.monotonic,
        sampled_usec=stamp.realtime_usec,
        error=error,
    )


def _failed(device: Device, failure: CallFailed, stamp: ReadingTime) -> Sample:
    lost = failure.code == Code.GPU_IS_LOST
    return Sample(
        index=device.index,
        uuid=device.uuid,
        name=device.name,
        source="nvml",
        total_mib=None,
        used_mib=None,
        free_mib=None,
        taken_at=stamp.monotonic,
        sampled_usec=stamp.realtime_usec,
        lost=lost,
        error="gpu-lost: the GPU has fallen off the bus" if lost else f"nvml-error: {failure}",
    )


def _memory_or_why_not(library: NvmlLibrary, handle: Any) -> tuple[Memory, str]:
    """Unified-memory devices (GB10) have no figures of their own, but do list processes."""
    try:
        return _memory(library, handle), ""
    except CallFailed as failure:
        if failure.code != Code.NOT_SUPPORTED:
            raise
        return Memory(None, None, None), f"memory-info-not-supported: {failure}"


def _memory(library: NvmlLibrary, handle: Any) -> Memory:
    try:
        info = library.call("nvmlDeviceGetMemoryInfo", handle, version=library.constant("nvmlMemory_v2"))
    except CallFailed as failure:
        if failure.code not in NO_SUCH_VERSION | {Code.NOT_SUPPORTED}:
            raise
        info = library.call("nvmlDeviceGetMemoryInfo", handle)
    if info.total in (0, NOT_AVAILABLE):
        raise CallFailed(Code.NOT_SUPPORTED, f"the driver reports a total of {info.total} bytes")
    return Memory(_floor_mib(info.total), _ceil_mib(info.used), _floor_mib(info.free))


@dataclass(frozen=True, slots=True)
class _ListCall:
    """A list of processes; ``draws``: nobody does on a MIG instance, which may not even have the list."""

    function: str
    always_there: bool
    draws: bool = False


LISTS = (
    _ListCall("nvmlDeviceGetComputeRunningProcesses", always_there=True),
    _ListCall("nvmlDeviceGetGraphicsRunningProcesses", always_there=True, draws=True),
    _ListCall("nvmlDeviceGetMPSComputeRunningProcesses", always_there=False),
)


def _processes(library: NvmlLibrary, device: Device) -> tuple[tuple[ProcessUse, ...], bool]:
    """Everybody in any of the lists, one entry a pid, and whether no list failed."""
    found: dict[int, int | None] = {}
    complete = True
    for which, handle in product(LISTS, (device.handle, *device.beside)):
        try:
            _join(found, _list(library, which.function, handle, device.instance))
        except CallFailed as failure:
            if failure.code == Code.GPU_IS_LOST:
                raise
            absent = failure.code in (Code.FUNCTION_NOT_FOUND, Code.NOT_SUPPORTED)
            may_lack = not which.always_there or (which.draws and device.instance is not None)
            complete = complete and absent and may_lack
    names = {pid: _process_name(library, pid) for pid in found}
    return tuple(ProcessUse(pid, found[pid], names[pid]) for pid in sorted(found)), complete


def _join(found: dict[int, int | None], processes: Iterable[tuple[int, int | None]]) -> None:
    """A process that computes and draws is in both lists with the same memory: the larger figure, never the sum."""
    for pid, mib in processes:
        known = [figure for figure in (found.get(pid), mib) if figure is not None]
        found[pid] = max(known) if known else None


def _list(library: NvmlLibrary, function: str, handle: Any, instance: int | None) -> list[tuple[int, int | None]]:
    try:
        entries = _list_growing(library, f"{function}_v3", handle)
    except CallFailed as failure:
        if failure.code != Code.FUNCTION_NOT_FOUND:
            raise
        entries = _list_growing(library, f"{function}_v2", handle)
    own = [entry for entry in entries if instance is None or _is_in(entry, instance)]
    return [(int(entry.pid), _ceil_mib(entry.usedGpuMemory)) for entry in own]


def _is_in(entry: Any, instance: int) -> bool:
    """Some drivers list the whole GPU's processes for one of its instances too."""
    return nvml_mig.NO_INSTANCE in (instance, number := getattr(entry, "gpuInstanceId", instance)) or number == instance


def _list_growing(library: NvmlLibrary, function: str, handle: Any, tries: int = 3) -> list[Any]:
    """The list may grow between the call that asks for its length and the one that fetches it."""
    for left in reversed(range(tries)):
        try:
            entries: list[Any] = library.call(function, handle)
            return entries
        except CallFailed as failure:
            if failure.code != Code.INSUFFICIENT_SIZE or not left:
                raise
    raise AssertionError("unreachable")


def _process_name(library: NvmlLibrary, pid: int) -> str:
    try:
        name = short_name(str(library.call("nvmlSystemGetProcessName", pid)))
    except CallFailed:
        name = ""
    return name or command_name(pid)


def _floor_mib(figure: int | None) -> int | None:
    return None if figure in (None, NOT_AVAILABLE) else int(figure) // MIB


def _ceil_mib(figure: int | None) -> int | None:
    """Memory in use is rounded up, so that a little is not nothing."""
    return None if figure in (None, NOT_AVAILABLE) else -(-int(figure) // MIB)
