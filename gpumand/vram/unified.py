"""The memory pool of GPUs that have none of their own and use host RAM: GB10, Thor, Jetson, Strix Halo.

The kernel's MemAvailable bounds what such a GPU can get: free swap is not counted, since GPU memory cannot be swapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpumand.vram.sysfs import Root, below, parse_number, read_text

MEMINFO = "/proc/meminfo"
MAX_BYTES = 64 * 1024
DEFAULT_RESERVE_MIB = 4096
"""RAM that stays free for the programs of the host, where ``reserve_mib`` is not set."""


@dataclass(frozen=True, slots=True)
class HostPool:
    """Host RAM in MiB.

    Attributes:
        total_mib: RAM that programs can allocate as ordinary pages; None = unknown.
        available_mib: RAM that can be allocated without swapping, as the kernel estimates it; None = unknown.
    """

    total_mib: int | None
    available_mib: int | None

    @property
    def used_mib(self) -> int | None:
        """RAM that is in use; None = unknown."""
        if self.total_mib is None or self.available_mib is None:
            return None
        return max(0, self.total_mib - self.available_mib)

    def free_mib(self, reserve_mib: int) -> int | None:
        """RAM that a GPU can take while ``reserve_mib`` stay free; None = unknown."""
        return None if self.available_mib is None else max(0, self.available_mib - reserve_mib)


def read_pool(root: Root = "/") -> HostPool:
    """Read the size of host RAM and what of it is available; blocks.

    Huge pages that are set aside at boot serve only programs that ask for them, so that they are no part of the pool.
    MemAvailable does not contain them.
    """
    text = read_text(below(root, MEMINFO), MAX_BYTES) or ""
    lines = {name.strip(): value.split() for name, _, value in (line.partition(":") for line in text.splitlines())}
    total_kib = _number(lines, "MemTotal", "kB")
    if total_kib is not None:
        total_kib -= (_number(lines, "HugePages_Total") or 0) * (_number(lines, "Hugepagesize", "kB") or 0)
    return HostPool(_mib(total_kib), _mib(_number(lines, "MemAvailable", "kB")))


def _number(lines: Mapping[str, list[str]], name: str, *unit: str) -> int | None:
    """The number of a line with this unit; None if the line is missing or has another unit."""
    number, *rest = lines.get(name) or [""]
    return parse_number(number) if tuple(rest) == unit else None


def _mib(kib: int | None) -> int | None:
    return None if kib is None or kib < 0 else kib // 1024
