"""One device through NVML: its figures and who holds them.

Blocking; called in the library's thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gpumand.domain.device import ProcessUse, Sample
from gpumand.vram.nvml_library import CallFailed, Code, NvmlLibrary
from gpumand.vram.process import command_name, short_name
from gpumand.vram.stamp import Stamp

MIB = 1 << 20
NOT_AVAILABLE = (1 << 64) - 1
"""NVML's "no figure": the largest number, not zero."""

NO_SUCH_VERSION = frozenset({Code.FUNCTION_NOT_FOUND, Code.INVALID_ARGUMENT, Code.ARGUMENT_VERSION_MISMATCH})


@dataclass(frozen=True, slots=True)
class Device:
    """A device as found when the library was initialised.

    Attributes:
        index: NVML's index.
        uuid, name: "" where the driver would not say and never said before.
        handle: NVML's handle; None where there is none.
        failure: why there is no handle.
    """

    index: int
    uuid: str
    name: str
    handle: Any = None
    failure: CallFailed | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """Figures of one device in MiB; None = unknown. ``used`` counts the driver's reserve only where NVML is old."""

    total_mib: int | None
    used_mib: int | None
    free_mib: int | None


def find_device(library: NvmlLibrary, index: int, before: Device | None) -> Device:
    """Look a device up; one that cannot be opened keeps the name it had. Raises LibraryFailed."""
    try:
        handle = library.call("nvmlDeviceGetHandleByIndex", index)
        uuid = str(library.call("nvmlDeviceGetUUID", handle))
        return Device(index, uuid, short_name(str(library.call("nvmlDeviceGetName", handle))), handle)
    except CallFailed as failure:
        return Device(index, before.uuid if before else "", before.name if before else "", failure=failure)


def read_device(library: NvmlLibrary, device: Device, stamp: Stamp) -> Sample:
    """Take a sample; what fails is said in it. Raises LibraryFailed."""
    try:
        if device.failure is not None:
            raise device.failure
        return _read(library, device, stamp)
    except CallFailed as failure:
        return _failed(device, failure, stamp)


def _read(library: NvmlLibrary, device: Device, stamp: Stamp) -> Sample:
    memory, error = _memory_or_why_not(library, device.handle)
    processes, complete = _processes(library, device.handle)
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


def _failed(device: Device, failure: CallFailed, stamp: Stamp) -> Sample:
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
    function: str
    always_there: bool


LISTS = (
    _ListCall("nvmlDeviceGetComputeRunningProcesses", always_there=True),
    _ListCall("nvmlDeviceGetGraphicsRunningProcesses", always_there=True),
    _ListCall("nvmlDeviceGetMPSComputeRunningProcesses", always_there=False),
)


def _processes(library: NvmlLibrary, handle: Any) -> tuple[tuple[ProcessUse, ...], bool]:
    """Everybody in any of the lists, one entry a pid, and whether no list failed."""
    found: dict[int, int | None] = {}
    complete = True
    for which in LISTS:
        try:
            _join(found, _list(library, which.function, handle))
        except CallFailed as failure:
            if failure.code == Code.GPU_IS_LOST:
                raise
            absent = failure.code in (Code.FUNCTION_NOT_FOUND, Code.NOT_SUPPORTED)
            complete = complete and absent and not which.always_there
    names = {pid: _process_name(library, pid) for pid in found}
    return tuple(ProcessUse(pid, found[pid], names[pid]) for pid in sorted(found)), complete


def _join(found: dict[int, int | None], processes: Iterable[tuple[int, int | None]]) -> None:
    """A process that computes and draws is in both lists with the same memory: the larger figure, never the sum."""
    for pid, mib in processes:
        known = [figure for figure in (found.get(pid), mib) if figure is not None]
        found[pid] = max(known) if known else None


def _list(library: NvmlLibrary, function: str, handle: Any) -> list[tuple[int, int | None]]:
    try:
        entries = _list_growing(library, f"{function}_v3", handle)
    except CallFailed as failure:
        if failure.code != Code.FUNCTION_NOT_FOUND:
            raise
        entries = _list_growing(library, f"{function}_v2", handle)
    return [(int(entry.pid), _ceil_mib(entry.usedGpuMemory)) for entry in entries]


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
