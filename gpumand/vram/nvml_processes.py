"""Reads the processes on one device through NVML, and recognises what some drivers report wrongly about them.

All functions block; call them in the library's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from gpumand.domain.device import Pool, ProcessUse
from gpumand.vram import nvml_mig
from gpumand.vram.nvml_binding import ProcessInfo
from gpumand.vram.nvml_library import LOST_GPU, CallFailed, Code, NvmlLibrary
from gpumand.vram.nvml_memory import Memory, ceil_mib
from gpumand.vram.process_names import ProcessNames

MAX_PID = 1 << 22
"""Linux has no larger process ids (PID_MAX_LIMIT in ``include/linux/threads.h``)."""

UNEXPLAINED_MIB = 512
"""Memory in use beyond that of all processes that is usual: the driver's own, and contexts."""


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


def read_processes(
    library: NvmlLibrary, names: ProcessNames, handles: Iterable[Any], instance: int | None
) -> tuple[tuple[ProcessUse, ...], bool]:
    """Return the processes of all lists, one entry per pid, and whether the lists are complete.

    Args:
        library: the initialised library.
        names: finds the names of processes.
        handles: the handles of the device.
        instance: NVML's number of its GPU instance; None for a whole GPU.

    Raises:
        CallFailed: the device is lost.
        LibraryFailed: the library cannot be used.
    """
    found: dict[int, int | None] = {}
    complete = True
    for process_list, handle in product(LISTS, handles):
        try:
            entries, is_whole = _read_list(library, process_list.function, handle)
            own = [one for one in entries if instance is None or _belongs_to(one, instance)]
            _merge(found, [(int(one.pid), ceil_mib(one.usedGpuMemory)) for one in own])
            complete = complete and is_whole
        except CallFailed as failure:
            if failure.code in LOST_GPU:  # concerns the device, not this list
                raise
            unsupported = failure.code in (Code.FUNCTION_NOT_FOUND, Code.NOT_SUPPORTED)
            is_optional = not process_list.always_supported or (process_list.graphics and instance is not None)
            complete = complete and unsupported and is_optional
    return tuple(ProcessUse(pid, found[pid], names.name_of(pid)) for pid in sorted(found)), complete


def believable(processes: Sequence[ProcessUse], memory: Memory) -> tuple[ProcessUse, ...]:
    """The processes, with unknown instead of amounts that cannot be right.

    A process that is listed has a context, so that it holds memory. Where the driver looks it up in another pid
    namespace it finds nothing and reports 0 bytes (NVIDIA/open-gpu-kernel-modules, pull request 614). Such a 0 counts
    as unknown while the device has memory in use that no process explains. No process holds more than there is.
    """
    total_mib = memory.total_mib
    known = [_without_excess(one, total_mib) for one in processes]
    named_mib = sum(one.used_mib or 0 for one in known)
    is_hiding = memory.pool is Pool.VRAM and (memory.used_mib or 0) - named_mib > UNEXPLAINED_MIB
    return tuple(replace(one, used_mib=None) if is_hiding and one.used_mib == 0 else one for one in known)


def _without_excess(process: ProcessUse, total_mib: int | None) -> ProcessUse:
    is_excess = total_mib is not None and (process.used_mib or 0) > total_mib
    return replace(process, used_mib=None) if is_excess else process


def _merge(found: dict[int, int | None], processes: Iterable[tuple[int, int | None]]) -> None:
    """Add processes to ``found``; of two values for one pid, keep the larger one."""
    # A process that uses compute and graphics is in both lists with the same memory, so the values are not added.
    for pid, mib in processes:
        known = [value for value in (found.get(pid), mib) if value is not None]
        found[pid] = max(known) if known else None


def _read_list(library: NvmlLibrary, function: str, handle: Any) -> tuple[list[ProcessInfo], bool]:
    """The entries of a list, and whether all of them could be read.

    Version 3 of the lists has larger entries than NVIDIA's header says in drivers 535.43 to 535.54, so that from the
    second process on the fields of several entries are mixed up (NVIDIA/go-nvml, issue 75). Version 2 is right there.
    """
    try:
        entries = _call_until_it_fits(library, f"{function}_v3", handle)
        if all(map(_is_sound, entries)):
            return entries, True
    except CallFailed as failure:
        if failure.code != Code.FUNCTION_NOT_FOUND:
            raise
        entries = []
    try:
        entries = _call_until_it_fits(library, f"{function}_v2", handle)
    except CallFailed:
        if not entries:
            raise
    sound = [one for one in entries if _is_sound(one)]
    return sound, len(sound) == len(entries)


def _is_sound(entry: ProcessInfo) -> bool:
    return bool(0 < entry.pid <= MAX_PID)


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
