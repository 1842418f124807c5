"""Scans the containers of this host: engines by their API sockets, processes by /proc. Blocking code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from gpumand.containers.answers import InvalidAnswer, container_state
from gpumand.discovery.containers import FoundContainer, find_containers
from gpumand.discovery.host import Process
from gpumand.domain.container import CONTAINER_ID, ContainerState
from gpumand.host.container_connections import inner_ports
from gpumand.root_helpers.container_engine import Engine, Refused, described
from gpumand.root_helpers.containers import engines_of
from gpumand.vram.container_links import Evidence
from gpumand.vram.container_places import PlaceReader

MAX_CONTAINERS = 256
ENGINE_SEC = 5.0
"""Timeout of one request to an engine, in seconds."""


def running_containers(engines: Sequence[Engine] | None = None) -> tuple[tuple[ContainerState, ...], str]:
    """The running containers that the engines report, and why an engine could not be asked; "" when all could.

    The sockets are opened with the rights of the caller, as ``docker ps`` does. The daemon never calls this.

    Args:
        engines: the engines; None = those of the system, and those of the caller.
    """
    found: list[ContainerState] = []
    errors = []
    for engine in _present(_usual_engines() if engines is None else engines):
        try:
            found += _running(engine)
        except Refused as refused:
            errors.append(str(refused))
    return tuple(found[:MAX_CONTAINERS]), "; ".join(errors)


def _usual_engines() -> list[Engine]:
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "") if os.geteuid() else ""
    return engines_of("") + (engines_of("", runtime_dir) if runtime_dir else [])


def _present(engines: Sequence[Engine]) -> list[Engine]:
    """The engines that have a socket; podman-docker makes /run/docker.sock a link to Podman's, which counts once."""
    by_socket: dict[str, Engine] = {}
    for engine in engines:
        if os.path.exists(engine.path):
            by_socket[os.path.realpath(engine.path)] = engine
    return list(by_socket.values())


def _running(engine: Engine) -> list[ContainerState]:
    """The running containers of an engine. Raises Refused."""
    listed = _parsed(engine.call("GET", "/containers/json", ENGINE_SEC))
    ids = [one.get("Id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    states = []
    for container_id in ids[:MAX_CONTAINERS]:
        if not isinstance(container_id, str) or not CONTAINER_ID.fullmatch(container_id):
            continue
        with suppress(InvalidAnswer, Refused):  # it may have ended since it was listed
            answer = _parsed(engine.call("GET", f"/containers/{container_id}/json", ENGINE_SEC))
            states.append(container_state(described(engine.name, answer if isinstance(answer, dict) else {})))
    return states


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("an engine sent an answer that is not JSON", "failed") from None


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
