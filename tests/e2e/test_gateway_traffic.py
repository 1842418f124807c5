"""The installed gateway with Debian's own aiohttp: probes for smuggling, uploads, streams, WebSockets, drip, reuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.host import Host, holding
from tests.e2e.installation import module_command
from tests.e2e.machine import Machine
from tests.integration.gateway.probes import VALID

GATEWAY, SOCKET = "gpumand-gateway.service", "gpumand-gateway.socket"
CONFIG = "/etc/gpumand/gateway.toml"
RECORD = "/run/e2e-traffic.json"
PORTS = {"fake": (21534, 21535), "recorder": (21536, 21537)}
SETTINGS = "[gateway]\npatience_sec = 0.2\ndrip_sec = 0.2\nlinger_sec = 0.2\n"


@dataclass
class Traffic:
    """A gateway in front of the units ``fake`` and ``recorder``; ``blocker`` leaves no room for either."""

    host: Host

    @property
    def machine(self) -> Machine:
        return self.host.machine

    def client(self, kind: str, consumer: str) -> list[str]:
        return [*module_command("tests.e2e.traffic_client").split(), kind, f"http://127.0.0.1:{PORTS[consumer][0]}"]

    def results(self, kind: str, consumer: str) -> Any:
        return json.loads(self.machine.run(self.client(kind, consumer), timeout=60).stdout)

    def recorded(self, last: str) -> dict[str, Any]:
        """What has reached the recorder, once a request to a target is among it."""

        def found() -> Any:
            record = json.loads(self.machine.run(["cat", RECORD], check=False).stdout or "{}")
            return record if any(target == last for _, target, _ in record.get("requests", [])) else None

        record: dict[str, Any] = self.machine.wait_until(found, f"{last} is recorded")
        return record


@pytest.fixture
def traffic(installed: Machine, host: Host) -> Iterator[Traffic]:
    """A running gateway whose services are stopped."""
    listeners = [SETTINGS]
    for name, (front, port) in PORTS.items():
        serve = f"{module_command('tests.e2e.traffic_services')} {name} {port} {RECORD}"
        host.unit(name, f"/bin/sh -c '{holding(name, 10000)} & exec {serve}'")
        host.consumer(name, 10000, f'url = "http://127.0.0.1:{port}"', 'health = { path = "/health" }')
        listeners.append(f'[gateway.listeners.{name}]\nlisten = "127.0.0.1:{front}"\n')
    host.holder("blocker", 20000)
    host.start()
    installed.write_file(CONFIG, "\n".join(listeners))
    installed.systemctl("restart", GATEWAY)
    yield Traffic(host)
    installed.systemctl("stop", SOCKET, GATEWAY)
    installed.remove(RECORD)
    installed.systemctl("reset-failed", GATEWAY, check=False)


def test_gateway_runs_with_the_aiohttp_of_debian(traffic: Traffic) -> None:
    pid = traffic.machine.main_pid(GATEWAY)
    maps = traffic.machine.run(["cat", f"/proc/{pid}/maps"]).stdout
    assert "/usr/lib/python3/dist-packages/aiohttp/" in maps
    assert "/usr/local/" not in maps


def test_probes_never_reach_the_service(traffic: Traffic) -> None:
    found = traffic.results("probes", "recorder")

    assert found == {"not refused": {}, "valid": [[200]] * len(VALID), "after": [200]}
    record = traffic.recorded("/after")
    requests = [one for one in record["requests"] if one[1] != "/health"]
    assert requests == [["POST", "/probe", "hello"]] * len(VALID) + [["GET", "/after", ""]]
    assert record["errors"] == []
    assert not any("smuggled" in target for target in record["begun"])


def test_connections_are_used_again_on_both_sides(traffic: Traffic) -> None:
    assert traffic.results("reuse", "recorder") == {"statuses": [200] * 6}
    record = traffic.recorded("/reuse/4")
    assert [f"/reuse/{number}" for number in range(5)] in [
        [target for target in one if target.startswith("/reuse/")] for one in record["connections"]
    ]


def test_uploads_streams_and_websockets_pass(traffic: Traffic) -> None:
    found = traffic.results("transfers", "fake")

    assert found["uploaded"] == 64 << 20
    assert found["lines"] == [str(number) for number in range(10)]
    assert found["echo"] == ["echo hello", "chat"]
    assert traffic.host.machine.show(GATEWAY, "NRestarts") == "0"
    assert "Traceback" not in traffic.machine.journal(GATEWAY)


def test_waiting_stream_gets_signs_of_life_and_then_its_answer(traffic: Traffic) -> None:
    lease, _ = traffic.host.client.acquire("blocker")
    waiting = traffic.machine.start(traffic.client("drip", "fake"))
    assert waiting.stdout is not None
    first = json.loads(waiting.stdout.readline())
    traffic.machine.run(["sleep", "1"])  # several further signs of life
    traffic.host.client.release(lease)
    rest, errors = waiting.communicate(timeout=30)

    assert errors == ""
    assert first.startswith(": fake: ")
    assert json.loads(rest) == {"words": ['data: {"word": "one"}', 'data: {"word": "two"}', "data: [DONE]"]}
