"""The doctor on hosts with a gateway: it answers, its ports are its own, and the services are behind it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumand.cli.doctor.checks import examine
from gpumand.cli.doctor.facts import Configuration, Facts, GatewayFacts, GatewayListener
from gpumand.cli.doctor.finding import Severity
from gpumand.cli.doctor.gateway import read_gateway
from gpumand.domain.consumer import ConsumerSpec, Settings
from gpumand.domain.output_settings import HttpSettings
from tests.unit.cli.doctor.healthy_host import HEALTHY, findings, only_finding, unit

LISTENER = GatewayListener("ollama", "ollama", (("127.0.0.1", 11434),))
OPEN = {"ollama": ("127.0.0.1:11434",)}


def host(url: str = "http://127.0.0.1:11435", **changes: Any) -> Facts:
    gateway = GatewayFacts("/etc/gpumand/gateway.toml", (), (LISTENER,), OPEN)
    consumers = {"ollama": ConsumerSpec("ollama", 6000, url=url)}
    config = replace(HEALTHY.config, settings=Settings(consumers=consumers))
    return replace(HEALTHY, config=config, gateway=replace(gateway, **changes))


def test_host_without_a_gateway_has_nothing_to_check() -> None:
    assert examine(replace(HEALTHY, gateway=None))["gateway"] is None


def test_gateway_in_order_has_no_finding() -> None:
    sockets = (("127.0.0.1", 11434, "gateway"), ("127.0.0.1", 11435, "ollama serve"))
    facts = host(sockets=sockets)
    for check in ("gateway", "gateway listeners", "services behind the gateway"):
        assert findings(facts, check) == []


def test_invalid_configuration_is_shown_with_its_lines() -> None:
    found = only_finding(host(problems=("gateway.toml:3: gateway.wait_sec: must be a number",)), "gateway")
    assert (found.severity, "gateway.toml:3" in found.what) == (Severity.PROBLEM, True)


def test_gateway_that_does_not_answer_is_a_problem_with_its_clients() -> None:
    found = only_finding(host(open=None, error="the gateway does not answer at unix:/x"), "gateway")
    assert found.severity is Severity.PROBLEM
    assert "ollama" in found.why
    assert "restart gpumand-gateway.service" in found.fix


def test_port_of_another_program_is_named_with_the_way_out() -> None:
    facts = host(open=None, error="no answer", sockets=(("127.0.0.1", 11434, "/usr/bin/ollama serve"),))
    (found,) = findings(facts, "gateway listeners")
    assert "port 11434 is used by another program (/usr/bin/ollama serve)" in found.what
    assert "gpumanctl init --gateway" in found.fix


def test_listener_that_was_added_later_needs_a_reload() -> None:
    assert "reload gpumand-gateway.service" in only_finding(host(open={}), "gateway listeners").fix


def test_listener_without_a_consumer_is_a_problem() -> None:
    facts = replace(host(), config=replace(HEALTHY.config, settings=Settings(consumers={})))
    (found,) = findings(facts, "gateway listeners")
    assert "leads to ollama, which is not configured" in found.what


def test_service_whose_url_is_the_gateway_itself_is_a_circle() -> None:
    found = only_finding(host(url="http://localhost:11434"), "services behind the gateway")
    assert (found.severity, "circle" in found.why) == (Severity.PROBLEM, True)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7"])
def test_service_that_other_hosts_can_reach_is_a_warning(address: str) -> None:
    found = only_finding(host(sockets=((address, 11435, ""),)), "services behind the gateway")
    assert found.severity is Severity.WARNING
    assert "without a lease" in found.why


def test_unreadable_configuration_of_gpumand_accuses_no_listener() -> None:
    facts = replace(host(), config=Configuration())
    assert findings(facts, "gateway listeners") == []


def test_facts_are_read_from_the_file_and_from_the_host(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    nothing_there = f"unix:{tmp_path}/none.sock"
    assert read_gateway(file, nothing_there) is None
    file.write_text("", encoding="utf-8")
    assert read_gateway(file, nothing_there) is None
    file.write_text('[gateway.listeners.a]\nlisten = ["127.0.0.1:9", "unix:/x/y"]\n', encoding="utf-8")
    facts = read_gateway(file, nothing_there)
    assert facts is not None
    assert facts.listeners == (GatewayListener("a", "a", (("127.0.0.1", 9),)),)
    assert (facts.open, "does not answer" in facts.error) == (None, True)
    file.write_text("[gateway]\nnonsense = 1\n", encoding="utf-8")
    facts = read_gateway(file, nothing_there)
    assert facts is not None
    assert "nonsense" in facts.problems[0]


CLOSED: dict[str, Any] = {"ip_allow": ("127.0.0.0/8", "::1/128"), "ip_deny": ("0.0.0.0/0", "::/0")}
REMOTE: dict[str, Any] = {"remote": ("172.17.0.1:11434",), "open": {"ollama": ("127.0.0.1:11434", "172.17.0.1:11434")}}
AT_GATEWAY, AT_STATUS = "other hosts at the gateway", "other hosts at [http]"


def test_listener_for_containers_whose_unit_lets_none_in_is_a_problem_with_the_drop_in() -> None:
    facts = replace(host(**REMOTE), gateway_unit=unit("gpumand-gateway.service", **CLOSED))
    (found,) = findings(facts, AT_GATEWAY)
    assert (found.severity, "172.17.0.1:11434" in found.what, "time out" in found.why) == (Severity.PROBLEM, True, True)
    assert "systemctl edit gpumand-gateway   # [Service] IPAddressAllow=172.16.0.0/12" in found.fix
    assert "systemctl restart gpumand-gateway" in found.fix


@pytest.mark.parametrize(
    ("gateway", "lists"),
    [
        (REMOTE, {**CLOSED, "ip_allow": ("127.0.0.0/8", "172.16.0.0/12")}),
        (REMOTE, {}),
        ({**REMOTE, "open": {"ollama": ("systemd 172.17.0.1:11434",)}}, CLOSED),
        ({}, CLOSED),
    ],
    ids=["with the drop-in", "without lists", "socket of systemd", "loopback only"],
)
def test_listener_that_other_hosts_reach_has_no_finding(gateway: dict[str, Any], lists: dict[str, Any]) -> None:
    facts = replace(host(**gateway), gateway_unit=unit("gpumand-gateway.service", **lists))
    assert findings(facts, AT_GATEWAY) == []


def test_gateway_that_does_not_run_is_judged_by_its_configuration() -> None:
    facts = replace(host(**{**REMOTE, "open": None}), gateway_unit=unit("gpumand-gateway.service", **CLOSED))
    assert len(findings(facts, AT_GATEWAY)) == 1
    assert findings(replace(facts, gateway_unit=None), AT_GATEWAY) == []


@pytest.mark.parametrize(("listen", "count"), [("192.168.1.5:9876", 1), ("127.0.0.1:9876", 0), ("", 0)])
def test_status_address_for_other_hosts_is_judged_by_the_unit_of_gpumand(listen: str, count: int) -> None:
    settings = Settings(http=HttpSettings(listen, allow_remote=True))
    facts = replace(
        HEALTHY, config=replace(HEALTHY.config, settings=settings), service=unit("gpumand.service", **CLOSED)
    )
    found = findings(facts, AT_STATUS)
    assert len(found) == count
    assert all("systemctl edit gpumand   # [Service] IPAddressAllow=192.168.1.0/24" in one.fix for one in found)
    assert findings(replace(facts, service=unit("gpumand.service")), AT_STATUS) == []


def test_own_address_of_the_gateway_counts_without_any_listener(tmp_path: Path) -> None:
    file, keys = tmp_path / "gateway.toml", tmp_path / "keys.toml"
    keys.write_text(f'[keys.a]\nsha256 = "{"0" * 64}"\n', encoding="utf-8")
    file.write_text(
        f'[gateway]\nlisten = ["127.0.0.1:8770", "172.17.0.1:8770"]\nallow_remote = true\nkeys_file = "{keys}"\n',
        encoding="utf-8",
    )
    facts = read_gateway(file, f"unix:{tmp_path}/none.sock")
    assert facts is not None
    assert (facts.remote, facts.listeners) == (("172.17.0.1:8770",), ())
