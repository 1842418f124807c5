"""Walks over the cgroups of systemd's units and adds up the device memory of each; subtrees that hold none are skipped.

``dmem`` describes the files and uses the result. All functions block.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpumand.domain.cgroups import place_of
from gpumand.vram.sysfs import MIB, Root, below, parse_number, read_text

CGROUPS = "/sys/fs/cgroup"
MAX_FILE_BYTES = 1 << 16
MAX_FOLDERS = 20000
"""Cgroups that one walk visits. Memory of the others stays unexplained, so their units do not count as empty."""

MAX_DEPTH = 32
SLICE_REST_BYTES = 64 * MIB
"""Memory charged to a slice itself that is tolerated; more may belong to any unit below the slice."""

UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:service|scope)")
"""Unit names as systemd writes them. Users may name their own cgroups freely, even with terminal escape sequences."""

ENGINE_CGROUPS = frozenset({"docker", "kubepods", "libpod_parent"})
"""Cgroups of container engines that manage cgroups without systemd."""

_USER_MANAGER = re.compile(r"(/user\.slice/user-[0-9]+\.slice/user@[0-9]+\.service)/")

Amounts = Mapping[str, int | None]
"""Region -> bytes; None where the file has no number."""


def read_amounts(path: Path) -> dict[str, int | None] | None:
    """The lines ``REGION BYTES`` of a file; None where there is no such file."""
    text = read_text(path, MAX_FILE_BYTES)
    if text is None:
        return None
    words = (line.split() for line in text.splitlines())
    return {one[0]: parse_number(one[1]) for one in words if len(one) == 2}


def own_user_manager(root: Root = "/") -> str:
    """Path of the cgroup of the user manager in which this process runs, below the root cgroup; "" in the system."""
    lines = (read_text(below(root, "/proc/self/cgroup")) or "").splitlines()
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")
    found = _USER_MANAGER.match(path)
    return found[1] if found else ""


def kind_of_cgroup(path: str, manager: str) -> str:
    """What a cgroup is to a service manager.

    Args:
        path: its path below the root cgroup, ``/system.slice/ollama.service``.
        manager: path of the user manager in question; "" for the system's.

    Returns:
        "unit", or "slice" if units or containers may be below it. "other" is what has another manager, such as a
        container whose units may have the same names, or another user: it is listed as a whole.
    """
    name = path.rpartition("/")[2]
    if manager and not path.startswith(f"{manager}/"):
        return "slice" if f"{manager}/".startswith(f"{path}/") else "other"
    if path.split("/")[1] in ENGINE_CGROUPS:
        return "other" if place_of(path).container is not None else "slice"
    if UNIT.fullmatch(name):
        return "unit"
    return "slice" if name.endswith(".slice") else "other"


def subfolders(folder: Path) -> list[str]:
    """The names of the cgroups in a cgroup; [] if it has been removed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(one.name for one in entries if one.is_dir(follow_symlinks=False))
    except OSError:
        return []


@dataclass(slots=True)
class _Below:
    """What was found below a cgroup.

    Attributes:
        explained: region -> bytes that cgroups below it account for.
        units: the units below it.
    """

    explained: dict[str, int] = field(default_factory=dict)
    units: set[str] = field(default_factory=set)

    def add(self, amounts: Amounts) -> None:
        for region, held in amounts.items():
            self.explained[region] = self.explained.get(region, 0) + (held or 0)


class DmemWalk:
    """One walk, which its creation carries out.

    Attributes:
        used: region -> bytes in use on the device.
        by_unit: region -> unit -> bytes, without the units that hold none.
        paths: unit -> path of its cgroup.
        blind: region -> units whose memory may be charged to a slice, so that their own amount is unknown. Cgroups that
            are no unit are named by their path.
        with_rest: regions of which a slice holds more than its units explain, such as memory of a stopped unit. The
            slices of users are not meant, since no unit of the system is in them.
        enabled: whether the cgroups below the root have the file. Otherwise nothing is known of any unit.
    """

    def __init__(self, root: Root, known: Collection[str], manager: str = "") -> None:
        """Walk over the cgroups.

        Args:
            root: root of the file system.
            known: the registered regions; others are ignored.
            manager: path of the cgroup of a user manager, whose units are listed then; "" for the system's units.
        """
        self._top = below(root, CGROUPS)
        self._known = frozenset(known)
        self._manager = manager
        self._left = MAX_FOLDERS
        self.by_unit: dict[str, dict[str, int]] = {}
        self.paths: dict[str, str] = {}
        self.blind: dict[str, set[str]] = {}
        self.with_rest: set[str] = set()
        total = read_amounts(self._top / "dmem.current")
        self.used: Amounts = {} if total is None else {region: total.get(region) for region in self._known}
        self.enabled = any((self._top / name / "dmem.current").exists() for name in subfolders(self._top))
        if self.enabled:
            self._visit("", self._suspects(self.used), 0)

    def _suspects(self, amounts: Amounts) -> frozenset[str]:
        """The regions of which a cgroup holds memory, or may hold some."""
        return frozenset(region for region in self._known if amounts.get(region) != 0)

    def _visit(self, path: str, suspects: frozenset[str], depth: int) -> _Below:
        """Visit the cgroups in a slice.

        Args:
            path: path of the slice below the root cgroup.
            suspects: regions of which the nearest cgroup with the file holds memory.
            depth: steps from the root cgroup.
        """
        found = _Below()
        names = subfolders(Path(f"{self._top}{path}"))[: self._left]
        self._left -= len(names)
        for name in names:
            child = f"{path}/{name}"
            amounts = read_amounts(Path(f"{self._top}{child}") / "dmem.current")
            kind = kind_of_cgroup(child, self._manager)
            if kind == "slice":
                self._visit_slice(child, amounts, suspects, found, depth + 1)
            else:
                unit = name if kind == "unit" else child.lstrip("/")
                self._add_unit(unit, child, amounts, suspects)
                found.units.add(unit)
            found.add(amounts or {})
        return found

    def _visit_slice(
        self, path: str, amounts: Amounts | None, suspects: frozenset[str], found: _Below, depth: int
    ) -> None:
        own = suspects if amounts is None else self._suspects(amounts)
        if not own or depth > MAX_DEPTH:
            return
        inside = self._visit(path, own, depth)
        found.units |= inside.units
        if amounts is None:
            found.add(inside.explained)
            return
        for region in own:
            held = amounts.get(region)
            if held is None or held - inside.explained.get(region, 0) > SLICE_REST_BYTES:
                self.blind.setdefault(region, set()).update(inside.units)
                if self._manager or not f"{path}/".startswith("/user.slice/"):
                    self.with_rest.add(region)

    def _add_unit(self, unit: str, path: str, amounts: Amounts | None, suspects: Iterable[str]) -> None:
        """Add a unit. Without a number of its own, its memory is charged to the slice above it."""
        for region in suspects:
            if amounts is None or amounts.get(region) is None:
                self.blind.setdefault(region, set()).add(unit)
        self._add_amounts(unit, path, amounts or {})

    def _add_amounts(self, name: str, path: str, amounts: Amounts) -> None:
        for region in self._known:
            if held := amounts.get(region):
                by_unit = self.by_unit.setdefault(region, {})
                by_unit[name] = by_unit.get(name, 0) + held
                self.paths[name] = path
