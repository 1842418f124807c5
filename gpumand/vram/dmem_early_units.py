"""Finds units with processes that are older than the dmem controller: their memory is not charged to their cgroup.

``gpumand-dmem.service`` writes the times at which it enabled the controller to ``/run/gpumand-dmem/since``. Without
that file, such as when another program enabled the controller, no unit counts as early. All functions block.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
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
        self._since_sec: Mapping[str, float] = {}
        self._scanned_at = float("-inf")
        self._early: tuple[_Early, ...] = ()

    def find(self, manager: str = "") -> frozenset[str]:
        """The names of the early units that still run.

        Args:
            manager: path of the cgroup of a user manager, whose units are meant then; "" for the system's units.
        """
        since_sec = enabled_since(self._root)
        if not since_sec:
            return frozenset()
        if since_sec != self._since_sec or self._now() - self._scanned_at >= SCAN_INTERVAL_SEC:
            self._early = tuple(self._scan(since_sec, manager))
            self._since_sec, self._scanned_at = since_sec, self._now()
        return frozenset(one.unit for one in self._early if _number(one.path) == one.number)

    def _scan(self, since_sec: Mapping[str, float], manager: str) -> Iterator[_Early]:
        top = below(self._root, CGROUPS)
        for path in _unit_folders(top, manager):
            number, enabled_sec = _number(f"{top}{path}"), _latest(since_sec, path)
            if number is not None and any(began < enabled_sec for began in self._began_sec(f"{top}{path}")):
                yield _Early(path.rpartition("/")[2], f"{top}{path}", number)

    def _began_sec(self, path: str) -> Iterator[float]:
        """Start times of the processes in a cgroup and below it, in seconds since boot."""
        pids = (pid for folder, _, _ in os.walk(path) for pid in _pids(folder))
        for _, pid in zip(range(MAX_PROCESSES), pids, strict=False):
            text = read_text(below(self._root, f"/proc/{pid}/stat")) or ""
            fields = text.rpartition(")")[2].split()
            ticks = parse_number(fields[19]) if len(fields) > 19 else None
            if ticks is not None:
                yield ticks / TICKS_PER_SEC


def enabled_since(root: Root = "/") -> dict[str, float]:
    """Cgroup -> when the controller was enabled for its children, in seconds since boot; {} if that is not recorded.

    The lines of the file are ``MONOTONIC_USEC BOOTTIME_USEC /CGROUP``, by CLOCK_MONOTONIC and by CLOCK_BOOTTIME, which
    counts the time in suspend too and by which /proc gives the start of processes. A line without a cgroup is meant for
    the root cgroup.
    """
    found: dict[str, float] = {}
    for line in (read_text(below(root, SINCE_FILE), 1 << 16) or "").splitlines():
        words = line.split(maxsplit=2)
        usec = parse_number(words[min(1, len(words) - 1)]) if words else None
        if usec is not None:
            found[words[2] if len(words) == 3 else "/"] = usec / 1e6
    return found


def _latest(since_sec: Mapping[str, float], path: str) -> float:
    """When the controller was enabled in the last one of the cgroups above a cgroup."""
    above = (cgroup for cgroup in since_sec if cgroup == "/" or path.startswith(f"{cgroup}/"))
    return max((since_sec[cgroup] for cgroup in above), default=0.0)


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
                yield f"{path}/{name}"
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
