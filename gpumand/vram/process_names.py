"""Names of processes as the driver reports them, asked once for each process.

All functions block; call them in the library's thread.
"""

from __future__ import annotations

from collections.abc import Collection

from gpumand.vram.nvml_library import CallFailed, NvmlLibrary
from gpumand.vram.process import command_name, short_name, start_ticks


class ProcessNames:
    """Looks names of processes up through NVML, or in /proc if NVML does not know them."""

    def __init__(self, library: NvmlLibrary) -> None:
        self._library = library
        self._names: dict[int, tuple[int | None, str]] = {}

    def name_of(self, pid: int) -> str:
        """Return the short name of a process; "" if unknown. Raises LibraryFailed."""
        ticks = start_ticks(pid)
        known = self._names.get(pid)
        # A pid may have been reused. Without a start time that cannot be recognised, so the name is asked for again.
        if known is not None and known[0] == ticks and ticks is not None and known[1]:
            return known[1]
        name = self._ask(pid) or command_name(pid)
        self._names[pid] = (ticks, name)
        return name

    def keep_only(self, pids: Collection[int]) -> None:
        """Forget all other processes."""
        self._names = {pid: known for pid, known in self._names.items() if pid in pids}

    def _ask(self, pid: int) -> str:
        try:
            return short_name(str(self._library.call(self._library.nvml.process_name, pid)))
        except CallFailed:
            return ""
