"""Connects containers with the units whose clients started them, by evidence in falling order of strength.

1. The monitor of the container runs in the unit (Podman with ``--cgroups=split`` or ``no-conmon``, quadlet).
2. A client that runs in the unit, or that its ExecStart= names, has the container's id in its ``--cidfile``, or its
   name as ``--name`` (the name is known from Podman's monitor, or from the engine).
3. Docker publishes a port of the container that the client names with ``--publish``, or that a consumer of the unit has
   in its ``url``.
4. The container was started within seconds after the client, and neither fits anything else.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from gpumand.domain.cgroups import CgroupPlace
from gpumand.domain.container import ContainerState
from gpumand.domain.container_clients import clients_in
from gpumand.domain.container_rules import LocatorRules, ProcessPlace
from gpumand.vram.container_places import PlaceReader, RunningClient, id_in_file

NOT_RUNNING = -(10**18)
"""Start time of a client that is known from its unit only, long before the start of any container."""

NO_COMMANDS: Mapping[str, Sequence[Sequence[str]]] = MappingProxyType({})

START_SEC = 15.0
"""Seconds from the start of a client to that of its container, for the last kind of evidence. Pulling an image takes
longer; the container is then not found by this evidence."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read of the host in one go.

    Attributes:
        clients: running container clients.
        proxies: published TCP port -> address of the container.
        addresses: id of a container -> addresses in its network.
    """

    clients: tuple[RunningClient, ...] = ()
    proxies: Mapping[int, str] = field(default_factory=dict)
    addresses: Mapping[str, frozenset[str]] = field(default_factory=dict)


def read_evidence(
    reader: PlaceReader,
    rules: LocatorRules,
    pids: Mapping[str, int],
    commands: Mapping[str, Sequence[Sequence[str]]] = NO_COMMANDS,
) -> Evidence:
    """Read the evidence; blocking code.

    Args:
        reader: reads /proc.
        rules: only clients in units of consumers count.
        pids: id of a container -> one of its processes.
        commands: unit -> command lines of its ExecStart=, whose clients may have ended, as ``docker run -d`` does.
    """
    running = (one for one in reader.clients() if rules.unit_of(one.cgroup) in rules.units)
    clients = (*running, *_configured_clients(rules, commands))
    if not clients:
        return Evidence()
    return Evidence(clients, reader.proxies(), {one: reader.addresses(pid) for one, pid in pids.items()})


def _configured_clients(
    rules: LocatorRules, commands: Mapping[str, Sequence[Sequence[str]]]
) -> Iterator[RunningClient]:
    for unit, lines in commands.items():
        is_system = rules.manager_uid is None
        place = CgroupPlace(unit=unit) if is_system else CgroupPlace(user_unit=unit, uid=rules.manager_uid)
        for command in (client for words in lines for client in clients_in(words)):
            yield RunningClient(place, NOT_RUNNING, command, id_in_file(command.cid_file))


def link(
    rules: LocatorRules,
    places: Mapping[str, ProcessPlace],
    evidence: Evidence,
    named: Mapping[str, ContainerState],
    attributed: Collection[str] = (),
) -> dict[str, str]:
    """Find the unit of each container.

    Args:
        rules: the configuration.
        places: id of a container -> the place of one of its processes.
        evidence: what was read.
        named: name on a client's command line -> the container that an engine has by that name.
        attributed: ids of containers that belong to consumers already, for which the time of the start proves nothing.

    Returns:
        Id of a container -> unit; containers without a unit are left out.
    """
    found = {one: unit for one, place in places.items() if (unit := _by_evidence(rules, one, place, evidence, named))}
    others = {one: place for one, place in places.items() if one not in found and one not in attributed}
    return found | _by_time(rules, others, evidence, found)


def _by_evidence(
    rules: LocatorRules,
    container_id: str,
    place: ProcessPlace,
    evidence: Evidence,
    named: Mapping[str, ContainerState],
) -> str:
    if not rules.is_trusted(place.cgroup):
        return ""
    if place.monitor_unit in rules.units:
        return place.monitor_unit
    for client in evidence.clients:
        names = client.command.names
        is_named = place.name in names or any(name in named and named[name].id == container_id for name in names)
        if is_named or client.container_id == container_id:
            return rules.unit_of(client.cgroup)
    units = {rules.unit_of(one.cgroup) for one in evidence.clients if _publishes(rules, one, container_id, evidence)}
    return units.pop() if len(units) == 1 else ""


def _publishes(rules: LocatorRules, client: RunningClient, container_id: str, evidence: Evidence) -> bool:
    ports = {*client.command.host_ports, *rules.ports.get(rules.unit_of(client.cgroup), ())}
    addresses = evidence.addresses.get(container_id, frozenset())
    return any(evidence.proxies.get(port) in addresses for port in ports)


def _by_time(
    rules: LocatorRules, places: Mapping[str, ProcessPlace], evidence: Evidence, found: Mapping[str, str]
) -> dict[str, str]:
    """Pairs of a client and a container that have no other candidate on either side."""
    served = set(found.values())
    clients = [one for one in evidence.clients if rules.unit_of(one.cgroup) not in served]
    trusted = {one: place for one, place in places.items() if rules.is_trusted(place.cgroup)}
    pairs: dict[str, str] = {}
    for container_id, place in trusted.items():
        units = _units_started_before(rules, clients, place)
        rivals = [other for other, one in trusted.items() if units & _units_started_before(rules, clients, one)]
        if len(units) == 1 and rivals == [container_id]:
            pairs[container_id] = next(iter(units))
    return pairs


def _units_started_before(rules: LocatorRules, clients: Sequence[RunningClient], place: ProcessPlace) -> set[str]:
    started = place.monitor_started
    if started is None:
        return set()
    window = START_SEC * os.sysconf("SC_CLK_TCK")
    return {rules.unit_of(one.cgroup) for one in clients if 0 <= started - one.started <= window}
