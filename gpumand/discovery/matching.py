"""Which preset fits what was found. Plain values in and out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gpumand.config.presets import Preset
from gpumand.discovery.host import Host, Listener, Process

OURS = ("gpumand.service",)


@dataclass(frozen=True, slots=True)
class Finding:
    """A unit, or a process of no unit, that may be a consumer.

    Attributes:
        unit: its unit of type service; "" where it runs in none.
        description: that unit's.
        processes: those that were looked at.
        listeners: where they listen.
        preset: what it was recognised as; None where it was not.
        why: by what it was recognised, in a few words.
    """

    unit: str
    description: str
    processes: tuple[Process, ...]
    listeners: tuple[Listener, ...] = ()
    preset: Preset | None = None
    why: str = ""

    @property
    def used_mib(self) -> int | None:
        """What its processes hold on the device where they hold most; None where that is unknown, or nothing."""
        by_device: dict[int, int] = defaultdict(int)
        for process in self.processes:
            for device, mib in process.used_mib.items():
                if mib is None:
                    return None
                by_device[device] += mib
        return max(by_device.values(), default=0) or None

    @property
    def devices(self) -> tuple[int, ...]:
        """Devices on which they hold memory."""
        return tuple(sorted({device for process in self.processes for device in process.used_mib}))


def findings(host: Host, presets: Sequence[Preset]) -> list[Finding]:
    """What was recognised, by name of the preset; then what holds VRAM and was not, the largest first."""
    groups = [_recognised(one, presets) for one in _groups(host)]
    known = [one for one in groups if one.preset is not None]
    strange = [one for one in groups if one.preset is None and one.devices and one.unit not in OURS]
    known.sort(key=lambda one: (one.preset.name if one.preset else "", one.unit))
    strange.sort(key=lambda one: -(one.used_mib or 0))
    return known + strange


def likely_ports(host: Host, presets: Sequence[Preset], found: Sequence[Finding]) -> list[tuple[int, list[str]]]:
    """Default ports of presets at which somebody unrecognised listens, with the presets they may mean."""
    seen = {one.preset.name for one in found if one.preset is not None}
    taken = {one.port for finding in found for one in finding.listeners if finding.preset is not None}
    open_ports = sorted({one.port for one in host.listeners} - taken)
    by_port = [
        (port, [one.name for one in presets if port in one.about.detect.ports and one.name not in seen])
        for port in open_ports
    ]
    return [(port, names) for port, names in by_port if names]


def _groups(host: Host) -> list[Finding]:
    """One a unit, and one a process that runs in no service."""
    by_key: dict[str, list[Process]] = {unit: [] for unit in host.units}
    for process in host.processes.values():
        is_service = process.unit.endswith(".service") and not process.unit.startswith("user@")
        by_key.setdefault(process.unit if is_service else f"pid {process.pid}", []).append(process)
    return [_group(host, key, members) for key, members in by_key.items()]


def _group(host: Host, key: str, members: list[Process]) -> Finding:
    pids = {one.pid for one in members}
    listeners = tuple(one for one in host.listeners if one.pid in pids)
    unit = "" if key.startswith("pid ") else key
    return Finding(unit, host.units.get(unit, ""), tuple(members), listeners)


def _recognised(finding: Finding, presets: Sequence[Preset]) -> Finding:
    """By a command line first, then by the unit's name, the longest pattern that fits; never by a port alone.

    The main process's command line is the best word: llama-swap, LocalAI and Lemonade run llama-server below them.
    """
    if finding.unit in OURS:
        return finding
    fits = [(rank, one, why) for one in presets for rank, why in _fits(finding, one)]
    if not fits:
        return finding
    _, best, why = max(fits, key=lambda fit: fit[0])
    return replace(finding, preset=best, why=why)


def _fits(finding: Finding, preset: Preset) -> Iterable[tuple[tuple[int, int], str]]:
    """How well each pattern that fits does so, and what it fits."""
    detect = preset.about.detect
    for pattern in detect.commands:
        for process in finding.processes:
            if fnmatchcase(process.command, f"*{pattern}*"):
                yield (2 if process.is_main else 1, len(pattern)), "its command line"
    for pattern in detect.units:
        if finding.unit and fnmatchcase(finding.unit.lower(), f"{pattern.rstrip('*')}*.service"):
            yield (0, len(pattern)), "the name of its unit"
