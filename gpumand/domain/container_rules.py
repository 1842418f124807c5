"""Which consumers the processes of a container, a slice or a cgroup belong to, by configuration.

A user may create cgroups of any name, and run a container of any name with rootless Podman. Names and ids from the
cgroups of a user's service manager therefore count only for the daemon of that user, or if the engine itself has named
the container's main process there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gpumand.domain.cgroup_glob import matches_cgroup
from gpumand.domain.cgroups import CgroupPlace
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import ContainerRef
from gpumand.domain.socket_url import split_socket_url

Names = tuple[str, ...]
"""Names of consumers."""


@dataclass(frozen=True, slots=True)
class ProcessPlace:
    """Where a process runs, with what its ancestors say about its container.

    Attributes:
        cgroup: its cgroup.
        name: name of its container according to the command line of Podman's monitor; "" where unknown.
        monitor_unit: the unit that the container's monitor runs in; "" where unknown.
        monitor_started: start time of the container's monitor in clock ticks since boot; None where unknown.
    """

    cgroup: CgroupPlace = field(default_factory=CgroupPlace)
    name: str = ""
    monitor_unit: str = ""
    monitor_started: int | None = None

    @property
    def container(self) -> str:
        """The name of its container, or the beginning of its id; "" outside of containers."""
        return "" if self.cgroup.container is None else self.name or str(self.cgroup.container)


@dataclass(frozen=True, slots=True)
class EngineContainer:
    """A configured container as its engine reports it.

    Attributes:
        id: its full id; "" when the engine has no such container.
        name: its name.
        base: the cgroup of the container, found by its main process; "" where unknown.
    """

    id: str
    name: str = ""
    base: str = ""


@dataclass(frozen=True, slots=True)
class LocatorRules:
    """The keys ``container``, ``slice``, ``cgroup`` and ``unit`` of all consumers.

    Attributes:
        containers, slices, cgroups, units: configured text -> names of the consumers that have it.
        ports: unit -> TCP ports in the urls of its consumers.
        manager_uid: the user whose service manager has the units; None for the system's.
    """

    containers: Mapping[str, Names] = field(default_factory=dict)
    slices: Mapping[str, Names] = field(default_factory=dict)
    cgroups: Mapping[str, Names] = field(default_factory=dict)
    units: Mapping[str, Names] = field(default_factory=dict)
    ports: Mapping[str, frozenset[int]] = field(default_factory=dict)
    manager_uid: int | None = None

    @property
    def located(self) -> frozenset[str]:
        """Consumers that are found by container, slice or cgroup."""
        tables = (self.containers, self.slices, self.cgroups)
        return frozenset(name for table in tables for names in table.values() for name in names)

    def unit_of(self, place: CgroupPlace) -> str:
        """The unit of a process, in the service manager whose units are configured."""
        if self.manager_uid is None:
            return place.unit if place.uid is None else ""
        return place.user_unit if place.uid == self.manager_uid else ""

    def is_trusted(self, place: CgroupPlace) -> bool:
        """Whether names and ids in the path were given by an engine of the system, or of the daemon's own user."""
        return place.uid is None or place.uid == self.manager_uid

    def by_container(self, place: ProcessPlace, known: Mapping[str, EngineContainer]) -> Names:
        """The consumers whose ``container`` a process runs in.

        Args:
            place: the process.
            known: configured text -> the container, as far as an engine has reported it.
        """
        found = (names for text, names in self.containers.items() if self._is_in(place, text, known.get(text)))
        return tuple(name for names in found for name in names)

    def by_cgroup(self, place: ProcessPlace) -> Names:
        """The consumers whose ``cgroup`` pattern matches."""
        path = place.cgroup.path
        return tuple(name for pattern, names in self.cgroups.items() if matches_cgroup(pattern, path) for name in names)

    def by_slice(self, place: ProcessPlace) -> Names:
        """The consumers of the innermost configured slice."""
        if not self.is_trusted(place.cgroup):
            return ()
        found = [self.slices[one] for one in place.cgroup.slices if one in self.slices]
        return found[-1] if found else ()

    def _is_in(self, place: ProcessPlace, text: str, known: EngineContainer | None) -> bool:
        container = place.cgroup.container
        if container is None:
            return False
        if known is not None and known.id and container.id == known.id:
            # Of a unit whose memory is known only as a whole, the path is the name alone.
            return known.base.endswith(container.base) if known.base else self.is_trusted(place.cgroup)
        if not self.is_trusted(place.cgroup):
            return False
        return ContainerRef.parse(text).matches(container.engine, container.id, container.name or place.name)


def locator_rules(specs: Iterable[ConsumerSpec], manager_uid: int | None = None) -> LocatorRules:
    """The rules of a configuration.

    Args:
        specs: all consumers.
        manager_uid: the user whose service manager has the units; None for the system's.
    """
    tables: dict[str, dict[str, Names]] = {key: {} for key in ("container", "slice", "cgroup", "unit")}
    ports: dict[str, frozenset[int]] = {}
    for spec in specs:
        for key, table in tables.items():
            if text := getattr(spec, key):
                table[text] = (*table.get(text, ()), spec.name)
        if spec.unit and (port := _port(spec.url)):
            ports[spec.unit] = ports.get(spec.unit, frozenset()) | {port}
    containers, slices, cgroups, units = tables.values()
    return LocatorRules(containers, slices, cgroups, units, ports, manager_uid)


def _port(url: str) -> int:
    """The TCP port of a URL; 0 for a Unix socket or without a URL."""
    if not url or split_socket_url(url) is not None:
        return 0
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def undecided(
    rules: LocatorRules,
    places: Collection[ProcessPlace],
    unlinked: Collection[ProcessPlace],
    known: Mapping[str, EngineContainer],
    waiting_units: Iterable[str],
) -> frozenset[str]:
    """Consumers that may hold memory although no process was attributed to them.

    Args:
        rules: the configuration.
        places: all processes that hold memory; a place without a path could not be read.
        unlinked: those of them in containers that belong to no consumer as far as is known.
        known: configured text -> the container, as far as an engine has reported it.
        waiting_units: units with a container client whose container was not found.
    """
    if any(not place.cgroup.path for place in places):
        return rules.located
    if not any(place.cgroup.container and not place.cgroup.container.name and not place.name for place in unlinked):
        return frozenset()
    unknown = [names for text, names in rules.containers.items() if text not in known]
    waiting = [rules.units.get(unit, ()) for unit in waiting_units]
    return frozenset(name for names in (*unknown, *waiting) for name in names)
