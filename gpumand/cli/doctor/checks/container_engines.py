"""Checks that an engine with an API socket runs, where a consumer is started or stopped as a container."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpumand.cli.doctor.facts import Facts, UnitFacts
from gpumand.cli.doctor.finding import Finding, problem
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import ContainerEngine, ContainerRef

PODMAN_SOCKET = "podman.socket"
DOCKER_UNITS = ("docker.socket", "docker.service")
ENGINE_UNITS = (PODMAN_SOCKET, *DOCKER_UNITS)
"""Units that offer the API of an engine. Podman needs no service, so its socket is often disabled."""

ACTIVE = ("active", "activating", "reloading")
WHY = "gpumand cannot start, stop and inspect the container"


def reachable(facts: Facts) -> Iterator[Finding]:
    """The engine of each container answers on its API socket."""
    units = facts.containers.engines if facts.containers else {}
    if not units:
        return
    for name, spec in facts.consumers.items():
        if spec.container and "container" in spec.evict:
            yield from _findings(facts, name, spec, units)


def _findings(facts: Facts, name: str, spec: ConsumerSpec, units: Mapping[str, UnitFacts]) -> Iterator[Finding]:
    engine = ContainerRef.parse(spec.container).engine
    has_podman, has_docker = _is_active(units, PODMAN_SOCKET), any(_is_active(units, unit) for unit in DOCKER_UNITS)
    answers = {ContainerEngine.PODMAN: has_podman, ContainerEngine.DOCKER: has_docker, None: has_podman or has_docker}
    if answers[engine]:
        return
    if engine is not ContainerEngine.DOCKER and _exists(units, PODMAN_SOCKET):
        fix = facts.systemctl(f"enable --now {PODMAN_SOCKET}")
        yield problem(f"{name}: {PODMAN_SOCKET} is not active", f"{WHY} without the API of Podman", fix)
    elif engine is not ContainerEngine.PODMAN and _exists(units, *DOCKER_UNITS):
        unit = next(unit for unit in DOCKER_UNITS if _exists(units, unit))
        fix = facts.systemctl(f"enable --now {unit}")
        yield problem(f"{name}: {unit} is not active", f"{WHY} without the API of Docker", fix)
    else:
        what = f"{name}: {engine or 'no container engine'} {'is not installed' if engine else 'is installed'}"
        yield problem(what, f"systemd has none of the units {', '.join(ENGINE_UNITS)}, so {WHY}", "")


def _is_active(units: Mapping[str, UnitFacts], name: str) -> bool:
    return name in units and units[name].active_state in ACTIVE


def _exists(units: Mapping[str, UnitFacts], *names: str) -> bool:
    return any(name in units and units[name].load_state not in ("not-found", "masked") for name in names)
