"""The doctor's check that the engine of a consumer's container answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.checks import examine
from gpumand.cli.doctor.facts import ContainerFacts, Facts
from gpumand.cli.doctor.finding import Finding, Severity
from gpumand.domain.consumer import EvictionMethod
from tests.unit.cli.doctor.healthy_host import HEALTHY, settings, spec, unit

CONTAINER, HTTP = EvictionMethod.CONTAINER, EvictionMethod.HTTP
PODMAN, DOCKER = "podman.socket", "docker.socket"


def host(states: dict[str, str], container: str = "ui", **more: Any) -> Facts:
    """A host with one consumer in a container, and these states of the engines' units; "" = no such unit."""
    units = {
        name: unit(name, active_state=states.get(name, ""), load_state="loaded" if states.get(name) else "not-found")
        for name in (PODMAN, DOCKER, "docker.service")
    }
    keys = {"unit": "", "container": container, "evict": (CONTAINER,)} | more
    known = ContainerFacts(helper=unit("gpumand-containers.socket"), engines=units)
    return replace(HEALTHY, config=settings(spec("comfyui", **keys)), containers=known)


def found(facts: Facts) -> list[Finding]:
    return examine(facts)["container engines"] or []


@pytest.mark.parametrize(
    ("states", "container"),
    [
        ({PODMAN: "active"}, "ui"),
        ({DOCKER: "active", PODMAN: "inactive"}, "ui"),
        ({"docker.service": "active"}, "docker:ui"),
        ({PODMAN: "active", DOCKER: "inactive"}, "podman:ui"),
    ],
)
def test_engine_that_answers_has_no_finding(states: dict[str, str], container: str) -> None:
    assert found(host(states, container)) == []


@pytest.mark.parametrize(
    ("states", "container", "command"),
    [
        ({PODMAN: "inactive"}, "ui", "systemctl enable --now podman.socket"),
        ({PODMAN: "inactive", DOCKER: "active"}, "podman:ui", "systemctl enable --now podman.socket"),
        ({DOCKER: "inactive"}, "ui", "systemctl enable --now docker.socket"),
        ({DOCKER: "failed", PODMAN: "active"}, "docker:ui", "systemctl enable --now docker.socket"),
    ],
)
def test_engine_that_does_not_answer_comes_with_the_command(
    states: dict[str, str], container: str, command: str
) -> None:
    (finding,) = found(host(states, container))
    assert (finding.severity, finding.fix.endswith(command)) == (Severity.PROBLEM, True)


@pytest.mark.parametrize(("container", "words"), [("ui", "no container engine is"), ("docker:ui", "docker is not")])
def test_host_without_an_engine_is_reported(container: str, words: str) -> None:
    (finding,) = found(host({}, container))
    assert words in finding.what


def test_consumer_that_is_not_stopped_as_a_container_needs_no_engine() -> None:
    assert found(host({}, evict=(HTTP,))) == []
