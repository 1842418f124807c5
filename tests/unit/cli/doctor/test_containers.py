"""The doctor's checks of consumers in containers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.checks import examine
from gpumand.cli.doctor.collect import unit_facts
from gpumand.cli.doctor.facts import ContainerFacts, Facts
from gpumand.cli.doctor.finding import Finding, Severity
from gpumand.discovery.containers import FoundContainer
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.container import PublishedPort
from gpumand.domain.container_networks import allow_addresses
from tests.unit.cli.doctor.healthy_host import HEALTHY, settings, spec, unit

ID = "3f1c" * 16
CONTAINER = FoundContainer(
    ID,
    "ui",
    "podman",
    image="yanwk/comfyui-boot:cu128",
    ports=(PublishedPort("", 8188, 8188),),
    addresses=("10.88.0.5",),
)
HTTP, STOP, ENGINE = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP, EvictionMethod("container")
RESTRICTED = unit("gpumand.service", ip_deny=("0.0.0.0/0", "::/0"), ip_allow=("127.0.0.0/8", "::1/128"))


def host(running: FoundContainer = CONTAINER, listening: tuple[int, ...] = (8188,), **consumer: Any) -> Facts:
    """A host with one consumer in a container."""
    keys = {"unit": "", "container": "ui", "url": "http://127.0.0.1:8188", "evict": (ENGINE,)} | consumer
    known = ContainerFacts((running,), {ID: "comfyui"}, "", frozenset(listening), unit("gpumand-containers.socket"))
    return replace(HEALTHY, config=settings(spec("comfyui", **keys)), service=RESTRICTED, containers=known)


def found(facts: Facts, check: str) -> list[Finding]:
    return examine(facts)[check] or []


CHECKS = ("container helper", "containers", "restart policies", "container ports")


def test_consumer_in_a_container_that_works_has_no_finding() -> None:
    assert [found(host(), check) for check in CHECKS] == [[], [], [], []]


def test_port_that_is_published_by_dnat_only_comes_with_the_drop_in() -> None:
    (finding,) = found(host(listening=()), "container ports")
    assert finding.severity is Severity.PROBLEM
    assert "10.88.0.5" in finding.what
    assert "[Service] IPAddressAllow=10.88.0.0/16" in finding.fix
    assert "systemctl restart gpumand" in finding.fix


def test_address_of_the_container_in_the_url_needs_the_drop_in_too() -> None:
    (finding,) = found(host(url="http://10.88.0.5:8188"), "container ports")
    assert "IPAddressAllow=10.88.0.0/16" in finding.fix


@pytest.mark.parametrize(
    "service",
    [replace(RESTRICTED, ip_allow=("127.0.0.0/8", "10.88.0.0/16")), replace(RESTRICTED, ip_deny=()), None],
    ids=["with the drop-in", "without restriction", "unknown"],
)
def test_service_that_may_connect_has_no_finding(service: Any) -> None:
    assert found(replace(host(listening=()), service=service), "container ports") == []


def test_networks_of_systemd_are_read_and_nonsense_is_skipped() -> None:
    allow = [[2, b"\x7f\0\0\0", 8], [10, bytes(15) + b"\1", 128], [2, b"\1", 8], "x", [2]]
    assert unit_facts("a.service", {}, {"IPAddressAllow": allow}).ip_allow == ("127.0.0.0/8", "::1/128")
    assert unit_facts("a.service", {}, {"IPAddressAllow": 5}).ip_allow == ()


def test_networks_to_allow_are_named_once() -> None:
    assert allow_addresses(("172.17.0.2", "172.17.3.9", "fd00::2", "x")) == "172.17.0.0/16 fd00::/64"


@pytest.mark.parametrize("engine", ["docker", "podman"])
@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
def test_restart_policy_fights_the_stop_of_a_unit(engine: str, policy: str) -> None:
    container = replace(CONTAINER, engine=engine, restart_policy=policy)
    facts = host(container, unit="comfyui.service", evict=(STOP,))
    (finding,) = found(facts, "restart policies")
    assert finding.severity is Severity.WARNING
    assert f"{engine} update --restart=no ui" in finding.fix
    assert policy in finding.what
    failed = replace(facts, failed_evictions=({"consumer": "comfyui", "method": "unit-stop"},))
    assert "have failed" in found(failed, "restart policies")[0].why


@pytest.mark.parametrize(
    ("engine", "policy", "severity"),
    [
        ("docker", "always", Severity.NOTE),
        ("docker", "unless-stopped", None),
        ("podman", "always", None),
        ("docker", "on-failure", None),
        ("docker", "no", None),
    ],
)
def test_stop_through_the_engine_is_respected(engine: str, policy: str, severity: Severity | None) -> None:
    facts = host(replace(CONTAINER, engine=engine, restart_policy=policy))
    assert [one.severity for one in found(facts, "restart policies")] == ([severity] if severity else [])


def test_unload_route_that_ends_the_process_is_undone_by_the_policy() -> None:
    facts = host(replace(CONTAINER, restart_policy="always"), evict=(HTTP, ENGINE))
    (finding,) = found(facts, "restart policies")
    assert "unload route" in finding.why


def test_container_of_a_known_server_without_a_consumer_is_named() -> None:
    (finding,) = found(host(container="other"), "containers")
    assert "container ui (yanwk/comfyui-boot:cu128) looks like ComfyUI" in finding.what
    assert "gpumanctl init" in finding.fix


def test_container_belongs_to_the_consumer_whose_unit_starts_it() -> None:
    facts = host(replace(CONTAINER, unit="comfyui.service"), container="", unit="comfyui.service", evict=(STOP,))
    assert found(facts, "containers") == []


def test_engine_that_cannot_be_asked_is_reported_only_where_a_consumer_needs_it() -> None:
    facts = host()
    assert facts.containers is not None
    denied = replace(facts, containers=replace(facts.containers, error="docker does not answer (Permission denied)"))
    (finding,) = found(denied, "containers")
    assert (finding.severity, finding.fix) == (Severity.UNCHECKED, "sudo gpumanctl doctor")
    assert found(replace(denied, config=settings(spec("comfyui"))), "containers")[0].severity is Severity.NOTE


def test_helper_that_is_not_active_is_a_problem_where_a_consumer_needs_it() -> None:
    facts = host()
    assert facts.containers is not None
    inactive = replace(facts.containers, helper=unit("gpumand-containers.socket", active_state="inactive"))
    (finding,) = found(replace(facts, containers=inactive), "container helper")
    assert finding.fix == "sudo systemctl enable --now gpumand-containers.socket"
    assert found(replace(host(evict=(HTTP,)), containers=inactive), "container helper") == []
