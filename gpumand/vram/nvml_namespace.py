"""Decides which processes that NVML lists may be believed where gpumand runs in a container.

The sources of NVIDIA's kernel driver (``gpu_rmapi.c`` in NVIDIA/open-gpu-kernel-modules) show three generations:

* Up to 535.104, processes have the ids of the host, whatever the namespace of the caller.
* From 535.113 on, ids are those of the caller's namespace, and processes outside of it are left out. The memory of each
  is still looked up by the id of the host, which finds nothing, or the memory of an unrelated process.
* From 565 on, the memory is looked up in the caller's namespace too.

In the host's own namespace all of them are right, and nothing here applies. That the closed modules of the same
versions behave alike has not been measured. All functions block; call them in the library's thread.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace

from gpumand.domain.device import BEFORE_FIX, Pool, ProcessUse, Sample
from gpumand.vram.nvml_library import CallFailed, NvmlLibrary
from gpumand.vram.nvml_processes import UNEXPLAINED_MIB
from gpumand.vram.pid_namespace import exists, is_initial
from gpumand.vram.sysfs import Root, below

log = logging.getLogger(__name__)

WITH_LOCAL_PIDS = (535, 113)
WITH_LOCAL_MEMORY = (565, 0)
WSL = "/dev/dxg"
FIX = "Update the driver to version 565 or newer, or run gpumand on the host"

_VERSION = re.compile(r"([0-9]{1,6})\.([0-9]{1,6})")


class NamespaceGuard:
    """Removes from samples what the driver reports by numbers of another PID namespace.

    Args:
        library: the library, initialised when ``checked`` is called.
        root: root of the file system.
    """

    def __init__(self, library: NvmlLibrary, root: Root = "/") -> None:
        self._library, self._root = library, root
        self._is_initial: bool | None = None
        self._version: tuple[int, int] | None = None
        self._logged = ""

    def forget(self) -> None:
        """The library is closed: the next driver may have another version."""
        self._version = None

    def checked(self, sample: Sample) -> Sample:
        """The sample with the processes that certainly are those of this namespace, and why others are missing."""
        if self._is_initial is None:
            self._is_initial = is_initial(self._root)  # a process keeps its namespace
        if self._is_initial or not sample.attribution:
            return sample
        checked = self._checked(sample)
        if checked.attribution_gap not in ("", self._logged):
            self._logged = checked.attribution_gap
            log.warning("it is unknown which service holds how much VRAM: %s", self._logged)
        return checked

    def _checked(self, sample: Sample) -> Sample:
        if below(self._root, WSL).exists():
            return _without_processes(sample, "in WSL, NVIDIA's driver does not name the processes that hold memory")
        version = self._driver_version()
        driver = f"driver {version[0]}.{version[1]}" if version > (0, 0) else "a driver of unknown version"
        if version < WITH_LOCAL_PIDS:
            gap = f"gpumand runs in a container, and {driver} numbers processes as the host does{BEFORE_FIX}{FIX}"
            return _without_processes(sample, gap)
        if not all(exists(one.pid) for one in sample.processes if one.pid):
            # One that has just ended looks like one of another namespace; the next reading is without it.
            return _without_processes(sample, "")
        if version < WITH_LOCAL_MEMORY:
            gap = f"gpumand runs in a container, in which {driver} does not report the memory of processes"
            processes = tuple(replace(one, used_mib=None) if one.pid else one for one in sample.processes)
            return replace(sample, processes=processes, attributed=False, attribution_gap=f"{gap}{BEFORE_FIX}{FIX}")
        return replace(sample, attributed=sample.attributed and _is_explained(sample))

    def _driver_version(self) -> tuple[int, int]:
        """Major and minor version of the driver; (0, 0) if they are unknown. Raises LibraryFailed."""
        if self._version is None:
            try:
                found = _VERSION.match(self._library.call(self._library.nvml.driver_version))
            except CallFailed:
                found = None
            self._version = (int(found[1]), int(found[2])) if found else (0, 0)
        return self._version


def _without_processes(sample: Sample, gap: str) -> Sample:
    """The sample with the rows of whole units only, which the kernel knows by their cgroups."""
    units: tuple[ProcessUse, ...] = tuple(one for one in sample.processes if not one.pid)
    attribution = sample.attribution if units or not gap else ""
    return replace(sample, processes=units, attributed=False, attribution=attribution, attribution_gap=gap)


def _is_explained(sample: Sample) -> bool:
    """Whether the listed processes explain the memory in use, so that one that is not listed holds nothing.

    The driver takes a process for listed already if its id on the host equals the id of a listed one in this namespace.
    """
    named_mib = sum(one.used_mib or 0 for one in sample.processes)
    return sample.pool is Pool.VRAM and (sample.used_mib or 0) - named_mib <= UNEXPLAINED_MIB
