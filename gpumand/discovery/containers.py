"""Containers on this host: what the engines report, joined with the cgroups of processes. Plain values, no I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpumand.discovery.launcher_units import starts_other_programs
from gpumand.domain.container import COMPOSE_SERVICE, ContainerEngine, ContainerState, PublishedPort, name_in_compose
from gpumand.domain.container_rules import LocatorRules, ProcessPlace
from gpumand.vram.container_links import Evidence, link

QUADLET_LABEL = "PODMAN_SYSTEMD_UNIT"
RESTARTING = ("always", "unless-stopped")
"""Restart policies that start a container again although its process ended without an error."""

_REGISTRY = re.compile(r"(?:[^/]*[.:][^/]*|localhost)/")
_POD = re.compile(r"(.*/[^/]*pod[0-9a-f]{8}[^/]*)/.*")


@dataclass(frozen=True, slots=True)
class FoundContainer:
    """A running container.

    Attributes:
        key: its id, or its name for engines that name cgroups by it.
        name: its name; "" where unknown.
        lasting_name: the name that Compose means it to have, where that differs; "" otherwise.
        engine: "docker", "podman", or "" for engines that gpumand does not start and stop containers with.
        base: path of its cgroup.
        pids: its processes, as far as they were scanned.
        image: its image; "" where unknown.
        ports: its published TCP ports.
        addresses: its addresses in networks of the engine.
        restart_policy: its restart policy; "" where unknown.
        unit: the system's unit that starts it; "" without one.
        is_quadlet: that unit was generated from a quadlet file, or runs it with its own cgroup.
        uid: the user whose rootless engine runs it; None for the system's.
        is_ambiguous: both engines have a container of this name.
        inner_ports: ports at which it accepts connections in its own network.
    """

    key: str
    name: str = ""
    engine: str = ""
    base: str = ""
    pids: tuple[int, ...] = ()
    image: str = ""
    ports: tuple[PublishedPort, ...] = ()
    addresses: tuple[str, ...] = ()
    restart_policy: str = ""
    unit: str = ""
    is_quadlet: bool = False
    uid: int | None = None
    is_ambiguous: bool = False
    inner_ports: tuple[int, ...] = ()
    lasting_name: str = ""

    @property
    def reference(self) -> str:
        """The value of ``container`` for the configuration; "" where only its cgroup identifies it."""
        if not self.name:
            return self.key[:12] if self.engine else ""
        name = self.lasting_name or self.name
        return f"{self.engine}:{name}" if self.is_ambiguous and self.engine else name

    @property
    def cgroup_pattern(self) -> str:
        """A pattern of its cgroup that survives a restart of the container in its Kubernetes pod."""
        match = _POD.fullmatch(self.base)
        return match[1] if match else self.base

    @property
    def is_controllable(self) -> bool:
        """Whether the daemon of the system can start and stop it through the API of its engine."""
        return self.engine in tuple(ContainerEngine) and bool(self.name) and self.uid is None

    @property
    def title(self) -> str:
        """The container for messages."""
        return f"container {self.name or self.key[:12]}"


def image_name(image: str) -> str:
    """An image without registry and digest, such as ``ollama/ollama:latest``."""
    name = image.partition("@")[0].removeprefix("docker.io/library/")
    match = _REGISTRY.match(name)
    return name[match.end() :] if match else name


def find_containers(
    places: Mapping[int, ProcessPlace],
    states: Sequence[ContainerState],
    evidence: Evidence,
    inner_ports: Mapping[int, tuple[int, ...]] | None = None,
) -> tuple[FoundContainer, ...]:
    """Join what is known of each container.

    Args:
        places: where processes run, by pid; processes outside of containers are ignored.
        states: the running containers that the engines report; empty where they cannot be asked.
        evidence: container clients and published ports.
        inner_ports: ports at which a process's own network accepts connections, by pid.
    """
    by_key: dict[str, list[int]] = {}
    for pid, place in places.items():
        if place.cgroup.container is not None:
            by_key.setdefault(place.cgroup.container.id or place.cgroup.container.name, []).append(pid)
    by_id = {state.id: state for state in states}
    units = _client_units(places, by_key, states, evidence)
    names = [state.name for state in states]
    found = []
    for key, pids in by_key.items():
        one = _from_cgroup(key, pids, places)
        state = by_id.get(key)
        one = one if state is None else _with_state(one, state, names.count(state.name) > 1)
        ports = tuple(sorted({port for pid in pids for port in (inner_ports or {}).get(pid, ())}))
        found.append(replace(one, unit=one.unit or units.get(key, ""), inner_ports=ports))
    return tuple(sorted(found, key=lambda one: (one.name, one.key)))


def _from_cgroup(key: str, pids: Sequence[int], places: Mapping[int, ProcessPlace]) -> FoundContainer:
    first = places[min(pids)]
    container, cgroup = first.cgroup.container, first.cgroup
    assert container is not None
    own_unit = cgroup.unit if cgroup.uid is None and cgroup.unit.endswith(".service") else ""
    monitor_unit = first.monitor_unit if first.monitor_unit.endswith(".service") and cgroup.uid is None else ""
    unit = next((one for one in (own_unit, monitor_unit) if one and not starts_other_programs(one)), "")
    name = container.name or first.name
    return FoundContainer(
        key,
        name,
        container.engine,
        container.base,
        tuple(sorted(pids)),
        unit=unit,
        is_quadlet=bool(unit),
        uid=cgroup.uid,
    )


def _with_state(one: FoundContainer, state: ContainerState, is_ambiguous: bool) -> FoundContainer:
    quadlet = state.label(QUADLET_LABEL) if one.uid is None else ""
    return replace(
        one,
        name=state.name,
        lasting_name=name_in_compose(state.name) if state.label(COMPOSE_SERVICE) else "",
        engine=state.engine,
        image=state.image,
        ports=state.ports,
        addresses=state.addresses,
        restart_policy=state.restart_policy,
        unit=quadlet or one.unit,
        is_quadlet=bool(quadlet) or one.is_quadlet,
        is_ambiguous=is_ambiguous,
    )


def _client_units(
    places: Mapping[int, ProcessPlace],
    by_key: Mapping[str, Sequence[int]],
    states: Iterable[ContainerState],
    evidence: Evidence,
) -> dict[str, str]:
    """Id of a container -> the service whose container client started it."""
    # A container that PM2 or cron has started is a consumer of its own: their unit must not be stopped for it.
    clients = tuple(one for one in evidence.clients if not starts_other_programs(one.cgroup.unit))
    evidence = replace(evidence, clients=clients)
    units = {one.cgroup.unit for one in clients if one.cgroup.unit.endswith(".service")}
    rules = LocatorRules(units={unit: (unit,) for unit in units})
    first = {key: places[pids[0]] for key, pids in by_key.items()}
    with_id = {key: one for key, one in first.items() if one.cgroup.container and one.cgroup.container.id}
    return link(rules, with_id, evidence, {state.name: state for state in states})
