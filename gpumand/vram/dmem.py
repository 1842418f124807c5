"""Reads the kernel's cgroup controller for device memory (dmem): how much VRAM each systemd unit holds.

The source of the format is ``kernel/cgroup/dmem.c``. ``dmem.capacity`` exists in the root cgroup only and lists the
memory regions of all devices. ``dmem.current`` exists in the root, where it is the use of the whole device, and in each
cgroup whose parent has ``+dmem`` in its ``cgroup.subtree_control``. Both have one line ``REGION BYTES`` per region.
Everybody may read them, and no read wakes a sleeping card.

A cgroup without the file is not an empty one: its memory is charged to the nearest ancestor that has the file. Memory
is charged to the cgroup of the process at its allocation and stays there, so a unit that was started before the
controller was enabled seems to hold nothing. Such units are ``blind``. All functions block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gpumand.domain.device import ProcessUse, Sample
from gpumand.vram.dmem_early_units import EarlyUnits
from gpumand.vram.dmem_walk import CGROUPS, DmemWalk, own_user_manager, read_amounts
from gpumand.vram.sysfs import MIB, Root, below

UNEXPLAINED_MIB = 512
"""Memory that belongs to no unit although nothing is hidden: the kernel's own, scan-out, page tables, firmware."""

_REGION = re.compile(r"(drm|nvidia)/([0-9a-fA-F]{4,8}):([0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])/(vram[0-9]*|vidmem)")


@dataclass(frozen=True, slots=True)
class UnitAmounts:
    """The memory of one device, by unit.

    Attributes:
        total_bytes: size of the device's VRAM.
        used_bytes: use of the whole device; None = unknown.
        by_unit: unit -> bytes, without the units that hold none.
        blind: units whose memory may be charged elsewhere; absence from ``by_unit`` proves nothing for them.
        has_rest: whether a slice holds memory that none of its units explains, such as that of a unit that was stopped.
        paths: unit -> path of its cgroup.
        driver: "drm" or "nvidia", the first part of the region's name.
        enabled: whether any unit could have an amount: the controller is enabled below the root.
    """

    total_bytes: int = 0
    used_bytes: int | None = None
    by_unit: Mapping[str, int] = field(default_factory=dict)
    blind: frozenset[str] = frozenset()
    enabled: bool = False
    driver: str = ""
    has_rest: bool = False
    paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def rest_bytes(self) -> int | None:
        """Memory of no unit: the kernel's own, scan-out, page tables, and what no cgroup below the root has."""
        return None if self.used_bytes is None else max(0, self.used_bytes - sum(self.by_unit.values()))

    @property
    def processes(self) -> tuple[ProcessUse, ...]:
        """One entry with pid 0 per unit, rounded up so that a small amount does not become zero."""
        return tuple(
            ProcessUse(0, -(-held // MIB), unit=unit, cgroup=self.paths.get(unit, ""))
            for unit, held in sorted(self.by_unit.items())
        )


def regions(root: Root = "/") -> dict[str, int]:
    """The regions of VRAM that drivers have registered, with their bytes; {} without the controller."""
    listed = read_amounts(below(root, CGROUPS) / "dmem.capacity") or {}
    return {region: size for region, size in listed.items() if size and pci_address(region)}


def pci_address(region: str) -> str:
    """The PCI address of a region of VRAM, with a domain of 4 digits where that suffices; "" for other regions."""
    found = _REGION.fullmatch(region)
    return f"{int(found[2], 16):04x}:{found[3].lower()}" if found else ""


def units(root: Root, region: str, user: bool = False) -> UnitAmounts:
    """The memory of one region by unit, without the units that began before the controller was enabled.

    Args:
        root: root of the file system.
        region: name of a region from ``regions``.
        user: list the units of the user manager in which this process runs, instead of the system's units.
    """
    size = regions(root).get(region)
    if size is None:
        return UnitAmounts()
    return _walked(root, {region: size}, own_user_manager(root) if user else "")[region]


class DmemReader:
    """Reads the amounts of all devices in one walk over the cgroups.

    In a user manager, such as for a daemon on a session bus, the units are those of that manager.
    """

    def __init__(self, root: Root = "/") -> None:
        """Read below this root; nothing is read yet."""
        self._root = root
        self._early = EarlyUnits(root)

    def read(self) -> dict[str, UnitAmounts]:
        """PCI address -> amounts, of the devices with a registered region; {} without the controller."""
        known = regions(self._root)
        if not known:
            return {}
        manager = own_user_manager(self._root)
        walked, early = _walked(self._root, known, manager), self._early.find(manager)
        by_device: dict[str, list[UnitAmounts]] = {}
        for region, amounts in walked.items():
            by_device.setdefault(pci_address(region), []).append(replace(amounts, blind=amounts.blind | early))
        return {device: _added(parts) for device, parts in by_device.items()}


def with_units(sample: Sample, amounts: UnitAmounts | None) -> Sample:
    """A sample with the amounts of units, beside the processes that its source has found.

    Args:
        sample: the device as its source has read it.
        amounts: the amounts of the device; None or not enabled leaves the sample as it is.
    """
    if amounts is None or not amounts.enabled:
        return sample
    rows = amounts.processes
    if sample.asleep:
        # Memory that was moved to host RAM is not charged, and it comes back: it is unknown what a unit holds.
        rows = tuple(replace(row, used_mib=None) for row in rows)
    by_process_mib = sum(one.used_mib or 0 for one in sample.processes)
    # Both views show the same memory, so the larger one is a lower bound of what is explained.
    explained_mib = max(by_process_mib, sum(row.used_mib or 0 for row in rows))
    is_complete = is_explained(sample, explained_mib) and not amounts.has_rest and not sample.asleep
    return replace(
        sample,
        processes=(*sample.processes, *rows),
        blind=sample.blind | amounts.blind,
        attribution="dmem",
        attributed=sample.attributed or is_complete,
    )


def is_explained(sample: Sample, explained_mib: int) -> bool:
    """Whether the units account for the memory in use, so that a unit that is not listed holds nothing."""
    if sample.used_mib is None or sample.total_mib is None:
        return False
    return sample.used_mib - explained_mib <= max(UNEXPLAINED_MIB, sample.total_mib // 20)


def _added(parts: list[UnitAmounts]) -> UnitAmounts:
    """The amounts of a device with several regions, such as one per tile."""
    by_unit: dict[str, int] = {}
    for part in parts:
        for unit, held in part.by_unit.items():
            by_unit[unit] = by_unit.get(unit, 0) + held
    used = [part.used_bytes for part in parts]
    known = [one for one in used if one is not None]
    return UnitAmounts(
        sum(part.total_bytes for part in parts),
        sum(known) if len(known) == len(used) else None,
        by_unit,
        frozenset().union(*(part.blind for part in parts)),
        any(part.enabled for part in parts),
        parts[0].driver,
        any(part.has_rest for part in parts),
        parts[0].paths,
    )


def _walked(root: Root, known: Mapping[str, int], manager: str) -> dict[str, UnitAmounts]:
    walk = DmemWalk(root, known, manager)
    return {
        region: UnitAmounts(
            size,
            walk.used.get(region),
            walk.by_unit.get(region, {}),
            frozenset(walk.blind.get(region, ())),
            walk.enabled,
            region.partition("/")[0],
            region in walk.with_rest,
            walk.paths,
        )
        for region, size in known.items()
    }
