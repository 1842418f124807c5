"""Finds units with processes that are older than the dmem controller: their memory is not charged to their cgroup.

``gpumand-dmem.service`` writes the time at which it enabled the controller to ``/run/gpumand-dmem/since``. Without that
file, such as when another program enabled the controller, no unit counts as early. All functions block.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpumand.vram.dmem_walk import CGROUPS, kind_of_cgroup, subfolders
from gpumand.vram.sysfs import Root, below, parse_number, read_text

SINCE_FILE = "/run/gpumand-dmem/since"
SCAN_INTERVAL_SEC = 60.0
"""How often all units are searched for early processes; in between, units that were restarted are noticed."""

MAX_FOLDERS = 20000
MAX_PROCESSES = 256
"""Processes of one unit that are looked at; in a larger unit one of them is very likely the oldest."""

TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Early:
    """A cgroup of a unit with an early process. A restarted unit has a cgroup with another number."""

    unit: str
    path: str
    number: int


class EarlyUnits:
    """The units with a process that began before the controller was enabled."""

    def __init__(self, root: Root, now: Callable[[], float] = time.monotonic) -> None:
        """Search below this root; nothing is read yet.

        Args:
            root: root of the file system.
            now: monotonic seconds.
        """
        self._root = root
        self._now = now
        self._since_sec: float | None = None
        self._scanned_at = float("-inf")
        self._early: tuple[_Early, ...] = ()

    def find(self, manager: str = "") -> frozenset[str]:
        """The names of the early units that still run.

        Args:
            manager: path of the cgroup of a user manager, whose units are meant then; "" for the system's units.
        """
        since_sec = enabled_since(self._root)
        if since_sec is None:
            return frozenset()
        if since_sec != self._since_sec or self._now() - self._scanned_at >= SCAN_INTERVAL_SEC:
            self._early = tuple(self._scan(since_sec, manager))
            self._since_sec, self._scanned_at = since_sec, self._now()
        return frozenset(one.unit for one in self._early if _number(one.path) == one.number)

    def _scan(self, since_sec: float, manager: str) -> Iterator[_Early]:
        for path in _unit_folders(below(self._root, CGROUPS), manager):
            number = _number(path)
            if number is not None and any(began < since_sec for began in self._began_sec(path)):
                yield _Early(path.rpartition("/")[2], path, number)

    def _began_sec(self, path: str) -> Iterator[float]:
        """Start times of the processes in a cgroup and below it, in seconds since boot."""
        pids = (pid for folder, _, _ in os.walk(path) for pid in _pids(folder))
        for _, pid in zip(range(MAX_PROCESSES), pids, strict=False):
            text = read_text(below(self._root, f"/proc/{pid}/stat")) or ""
            fields = text.rpartition(")")[2].split()
            ticks = parse_number(fields[19]) if len(fields) > 19 else None
            if ticks is not None:
                yield ticks / TICKS_PER_SEC


def enabled_since(root: Root = "/") -> float | None:
    """When the controller was enabled, in seconds since boot including suspend; None if that is not recorded.

    The file holds microseconds of CLOCK_MONOTONIC and of CLOCK_BOOTTIME, in this order. /proc counts the start of a
    process by the latter.
    """
    words = (read_text(below(root, SINCE_FILE), 256) or "").split()
    usec = parse_number(words[-1]) if words else None
    return None if usec is None else usec / 1e6


def _unit_folders(top: Path, manager: str) -> Iterator[str]:
    """The paths of the cgroups of a manager's units."""
    waiting = [""]
    for _ in range(MAX_FOLDERS):
        if not waiting:
            return
        path = waiting.pop()
        for name in subfolders(Path(f"{top}{path}")):
            kind = kind_of_cgroup(f"{path}/{name}", manager)
            if kind == "unit":
                yield f"{top}{path}/{name}"
            elif kind == "slice":
                waiting.append(f"{path}/{name}")


def _pids(folder: str) -> list[int]:
    text = read_text(Path(folder) / "cgroup.procs", 1 << 16) or ""
    return [pid for word in text.split() if (pid := parse_number(word)) is not None]


def _number(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
