"""Whether the unit of a consumer listens at its url: another program is a finding, what is unknown is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumand.cli.doctor.facts import Facts
from gpumand.cli.doctor.finding import Severity
from gpumand.cli.doctor.listeners import read_listeners
from tests.unit.cli import samples
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, settings, spec, status, unit

OWN = "/system.slice/mvoice.service"
OTHER = "/system.slice/ollama.service"


def host(*paths: str, control_group: str | None = OWN, used_mib: int | None = None, **more: Any) -> Facts:
    entries = [samples.consumer("mvoice", used_mib=used_mib)]
    service = unit("mvoice.service", control_group=control_group, **more)
    return replace(
        HEALTHY,
        config=settings(spec("mvoice")),
        status=status(consumers=entries),
        units={"mvoice.service": service},
        listeners={"mvoice": paths},
    )


def test_other_unit_at_the_address_of_a_running_consumer_is_a_warning_that_names_it() -> None:
    finding = only_finding(host(OTHER), "listeners")

    assert (finding.severity, finding.what) == (
        Severity.WARNING,
        "mvoice: ollama.service listens at http://127.0.0.1:9200, and mvoice.service does not",
    )
    assert finding.why == (
        "gpumand and clients take its answers for those of mvoice. If it forwards requests to mvoice.service, set url "
        "to the address of the server itself"
    )
    assert finding.fix == "sudo ss -ltnp 'sport = :9200'"


def test_program_that_holds_the_port_of_a_stopped_unit_is_a_warning() -> None:
    finding = only_finding(host("/user.slice/user-1001.slice/session-3.scope", control_group=""), "listeners")

    assert finding.what.startswith("mvoice: session-3.scope listens at")
    assert "a server that mvoice.service starts cannot listen there" in finding.why


def test_server_of_a_user_s_service_manager_is_named() -> None:
    path = "/user.slice/user-1001.slice/user@1001.service/app.slice/ollama.service"

    assert only_finding(host(path), "listeners").what.startswith("mvoice: ollama.service listens at")


@pytest.mark.parametrize(
    "paths",
    [
        (),
        ("",),
        (OWN,),
        (f"{OWN}/worker",),
        (OTHER, OWN),
        (OTHER, ""),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/mvoice.service",),
        ("/init.scope",),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope",),
        ("/system.slice/docker.service",),
        ("/system.slice/containerd.service",),
        (f"/system.slice/docker-{'a' * 64}.scope",),
        (f"/machine.slice/libpod-{'a' * 64}.scope/container",),
        ("/user.slice/user-1000.slice/user@1000.service/user.slice/podman-1234.scope",),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/docker.service",),
        ("/machine.slice/systemd-nspawn@box.service",),
        ("/lxc.payload.box/system.slice/other.service",),
        ("/user.slice",),
    ],
)
@pytest.mark.parametrize("control_group", [OWN, ""])
def test_own_forwarded_and_unknown_listeners_are_no_finding(paths: tuple[str, ...], control_group: str) -> None:
    assert findings(host(*paths, control_group=control_group), "listeners") == []


def test_proxy_in_front_of_a_unit_that_holds_vram_is_no_finding() -> None:
    assert findings(host("/system.slice/nginx.service", used_mib=2800), "listeners") == []


def test_socket_activated_unit_and_unknown_control_group_are_no_finding() -> None:
    assert findings(host(OTHER, triggered_by=("mvoice.socket",)), "listeners") == []
    assert findings(host(OTHER, control_group=None), "listeners") == []


def test_consumers_in_containers_remote_ones_and_unix_sockets_are_not_looked_at() -> None:
    asked = [
        spec("far", url="http://192.0.2.1:9200"),
        spec("socket", url="http://unix:/run/x.sock"),
        spec("boxed", container="box"),
        spec("split", cgroup="/system.slice/x"),
        spec("by-url", unit=""),
    ]

    assert read_listeners(asked) in ({}, {"far": ()})
