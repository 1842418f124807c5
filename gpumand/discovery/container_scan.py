"""Scans the containers of this host: engines by their API sockets, processes by /proc. Blocking code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from gpumand.discovery.containers import FoundContainer, find_containers
from gpumand.discovery.host import Process
from gpumand.domain.container import ContainerState
from gpumand.host.container_connections import inner_ports
from gpumand.vram.container_links import Evidence
from gpumand.vram.container_places import PlaceReader

MAX_CONTAINERS = 256


def running_containers() -> tuple[tuple[ContainerState, ...], str]:
    """The running containers that the engines report, and why an engine could not be asked; "" when all could."""
    return (), ""


def scan_containers(pids: Iterable[int], states: Sequence[ContainerState]) -> tuple[FoundContainer, ...]:
    """The containers in which these processes run.

    Args:
        pids: the processes.
        states: the running containers that the engines report.
    """
    reader = PlaceReader()
    places = {pid: place for pid in pids if (place := reader.place(pid)).cgroup.container is not None}
    if not places:
        return ()
    first = {place.cgroup.container.id: pid for pid, place in places.items() if place.cgroup.container}
    evidence = Evidence(reader.clients(), reader.proxies(), {one: reader.addresses(pid) for one, pid in first.items()})
    found = find_containers(places, states, evidence, {pid: _inner_ports(pid) for pid in first.values()})
    own_uid = os.geteuid()
    return tuple(replace(one, uid=None) if own_uid and one.uid == own_uid else one for one in found)[:MAX_CONTAINERS]


def with_containers(processes: Mapping[int, Process], containers: Iterable[FoundContainer]) -> dict[int, Process]:
    """The processes, each with the key of its container."""
    keys = {pid: one.key for one in containers for pid in one.pids}
    return {pid: replace(process, container=keys.get(pid, "")) for pid, process in processes.items()}


def _inner_ports(pid: int) -> tuple[int, ...]:
    with suppress(OSError):
        return inner_ports(pid)
    return ()
