"""Matches running units and processes with presets. Plain values in and out, no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gpumand.config.presets import Preset
from gpumand.discovery.containers import FoundContainer, image_name
from gpumand.discovery.host import Host, Listener, Process
from gpumand.discovery.launcher_units import starts_other_programs

OWN_UNITS = ("gpumand.service",)
"""Units of gpumand itself, which are never consumers."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A service unit, or a process outside any service, that may become a consumer.

    Attributes:
        unit: its service unit; "" when it runs in none.
        description: the unit's description.
        processes: its processes, as far as they were scanned.
        listeners: sockets at which its processes listen.
        preset: the preset that fits; None when none does.
        why: how the preset was recognised, in a few words.
        guess: what was only guessed, as a clause; "" when nothing was.
        container: the container that its processes run in; None outside of containers.
    """

    unit: str
    description: str
    processes: tuple[Process, ...]
    listeners: tuple[Listener, ...] = ()
    preset: Preset | None = None
    why: str = ""
    guess: str = ""
    container: FoundContainer | None = None

    @property
    def used_mib(self) -> int | None:
        """VRAM that its processes hold, in MiB, on the device where they hold most; None when unknown or nothing."""
        by_device: dict[int, int] = defaultdict(int)
        for process in self.processes:
            for device, mib in process.used_mib.items():
                if mib is None:
                    return None
                by_device[device] += mib
        return max(by_device.values(), default=0) or None

    @property
    def devices(self) -> tuple[int, ...]:
        """Indices of the devices on which its processes hold VRAM."""
        return tuple(sorted({device for process in self.processes for device in process.used_mib}))


def find_candidates(host: Host, presets: Sequence[Preset]) -> list[Candidate]:
    """Group processes and match the groups with presets.

    Returns:
        Recognised candidates by preset name, then unrecognised ones that hold VRAM, the largest first.
    """
    groups = [_recognise(one, presets) for one in _group_processes(host, presets)]
    known = [one for one in groups if one.preset is not None]
    unrecognised = [one for one in groups if one.preset is None and one.devices and one.unit not in OWN_UNITS]
    known.sort(key=lambda one: (one.preset.name if one.preset else "", one.unit))
    unrecognised.sort(key=lambda one: -(one.used_mib or 0))
    return known + unrecognised


def likely_ports(host: Host, presets: Sequence[Preset], found: Sequence[Candidate]) -> list[tuple[int, list[str]]]:
    """Default ports of presets at which an unrecognised process listens, with the names of these presets."""
    seen = {one.preset.name for one in found if one.preset is not None}
    taken = {one.port for candidate in found for one in candidate.listeners if candidate.preset is not None}
    published = {one.host_port for container in host.containers for one in container.ports}
    open_ports = sorted({one.port for one in host.listeners} - taken - published)
    by_port = [
        (port, [one.name for one in presets if port in one.about.detect.ports and one.name not in seen])
        for port in open_ports
    ]
    return [(port, names) for port, names in by_port if names]


def _group_processes(host: Host, presets: Sequence[Preset]) -> list[Candidate]:
    """One group per container, one per service unit without containers, and one per program outside any service."""
    outside = [one for one in host.processes.values() if not one.container and not _is_in_service(one)]
    programs = {one.pid for one in outside if any(_matches_command(one, preset) for preset in presets)}
    containers = {one.key: one for one in host.containers}
    started_by = {one.unit: one.key for one in reversed(host.containers) if one.unit}
    # PM2's unit has the name of a user, which may be that of a server: pm2-comfyui.service.
    units = [one for one in host.units if one not in started_by and not starts_other_programs(one)]
    by_key: dict[str, list[Process]] = {unit: [] for unit in units}
    for process in host.processes.values():
        by_key.setdefault(_group_of(process, started_by, programs), []).append(process)
    return [_make_candidate(host, key, _with_main(key, ones), containers.get(key)) for key, ones in by_key.items()]


def _with_main(key: str, members: list[Process]) -> list[Process]:
    """The processes of a group; outside a service, the program that started the others comes first, as in a unit."""
    if not key.startswith("pid "):
        return members
    main = [replace(one, is_main=True) for one in members if key == f"pid {one.pid}"]
    return [*main, *(replace(one, is_main=False) for one in members if key != f"pid {one.pid}")]


def _group_of(process: Process, started_by: Mapping[str, str], programs: Collection[int]) -> str:
    """The key of a process's group; the client in a unit belongs to the container that it started.

    Outside a service, a child belongs to the program that started it: ollama and vLLM work in processes of their own.
    """
    if process.container:
        return process.container
    if _is_in_service(process):
        return started_by.get(process.unit, process.unit)
    # The outermost of them: a router such as llama-swap starts servers that are recognised too.
    return f"pid {next((pid for pid in reversed(process.ancestors) if pid in programs), process.pid)}"


def _is_in_service(process: Process) -> bool:
    return process.unit.endswith(".service") and not starts_other_programs(process.unit)


def _matches_command(process: Process, preset: Preset) -> bool:
    return any(fnmatchcase(process.command, f"*{pattern}*") for pattern in preset.about.detect.commands)


def _make_candidate(host: Host, key: str, members: list[Process], container: FoundContainer | None) -> Candidate:
    pids = {one.pid for one in members}
    listeners = tuple(one for one in host.listeners if one.pid in pids)
    if container is not None:
        listeners = (*listeners, *container_listeners(container))
    unit = container.unit if container is not None else "" if key.startswith("pid ") else key
    return Candidate(unit, host.units.get(unit, ""), tuple(members), listeners, container=container)


def container_listeners(container: FoundContainer) -> tuple[Listener, ...]:
    """Addresses at which the host reaches a container: its published ports, else its own address."""
    if container.ports:
        return tuple(Listener(one.host_address or "0.0.0.0", one.host_port) for one in container.ports)
    return tuple(Listener(address, port) for address in container.addresses[:1] for port in container.inner_ports)


def _recognise(candidate: Candidate, presets: Sequence[Preset]) -> Candidate:
    """Find the preset that fits best: by command line, then by unit name, longest pattern first; never by port alone.

    The command line of the main process ranks highest: llama-swap, LocalAI and Lemonade start llama-server as a child.
    """
    if candidate.unit in OWN_UNITS:
        return candidate
    matches = [(rank, one, why) for one in presets for rank, why in _matches(candidate, one)]
    if not matches:
        return candidate
    _, best, why = max(matches, key=lambda fit: fit[0])
    return replace(candidate, preset=best, why=why)


def _matches(candidate: Candidate, preset: Preset) -> Iterable[tuple[tuple[int, int], str]]:
    """The matching patterns of a preset: (rank, pattern length) and what the pattern matched."""
    detect = preset.about.detect
    for pattern in detect.commands:
        for process in candidate.processes:
            if fnmatchcase(process.command, f"*{pattern}*"):
                yield (2 if process.is_main else 1, len(pattern)), "its command line"
    image = image_name(candidate.container.image) if candidate.container else ""
    for pattern in detect.images if image else ():
        # Before the command line of a child process, as for the main process of a unit.
        if fnmatchcase(image.lower(), pattern) or fnmatchcase(image.lower().partition(":")[0], pattern):
            yield (2, len(pattern)), "its image"
    for pattern in detect.units:
        if candidate.unit and fnmatchcase(candidate.unit.lower(), f"{pattern}.service"):
            yield (0, len(pattern)), "the name of its unit"
