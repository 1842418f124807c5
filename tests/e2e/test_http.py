"""HTTP on a socket unit of systemd: activation, read access, restarts of service and socket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.client import MANAGER, NAME, ROOT, Client, plain
from tests.e2e.host import DAEMON, Host
from tests.e2e.machine import Machine

SOCKET = "gpumand.socket"
PATH = "/run/gpumand.sock"
CURL = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", "--unix-socket", PATH]
STATUS = [*CURL, "http://localhost/v1/status"]
GET_STATUS = ["busctl", "--json=short", "call", NAME, ROOT, MANAGER, "GetStatus"]


@pytest.fixture
def listening(host: Host) -> Host:
    """A host with a consumer, whose socket listens and whose daemon is stopped."""
    host.consumer("alpha", 1000, unit=True)
    host.machine.systemctl("start", SOCKET)
    assert host.machine.show(DAEMON, "ActiveState") == "inactive"
    return host


def fetched(machine: Machine, user: str = "") -> Any:
    return json.loads(machine.run(STATUS, user=user).stdout)


def consumers(status: Any) -> list[str]:
    return [entry["name"] for entry in status["consumers"]]


def starts(machine: Machine) -> int:
    return machine.journal(DAEMON, lines=10_000).count(" is ready: ")


def test_connection_starts_the_stopped_service(listening: Host) -> None:
    assert consumers(fetched(listening.machine)) == ["alpha"]
    assert listening.machine.show(DAEMON, "ActiveState") == "active"


def test_bus_call_starts_the_socket_too(listening: Host, client: Client) -> None:
    listening.machine.systemctl("stop", SOCKET)
    assert consumers(client.status()) == ["alpha"]
    assert listening.machine.show(SOCKET, "ActiveState") == "active"
    assert consumers(fetched(listening.machine)) == ["alpha"]


def test_call_and_connection_at_the_same_moment_start_one_daemon(listening: Host) -> None:
    before = starts(listening.machine)
    asked = [listening.machine.start(argv) for argv in (STATUS, GET_STATUS)]
    (fetched_text, _), (called_text, _) = [one.communicate(timeout=30) for one in asked]
    assert consumers(json.loads(fetched_text)) == ["alpha"]
    (called,) = plain(json.loads(called_text))
    assert consumers(called) == ["alpha"]
    assert starts(listening.machine) == before + 1
    assert listening.machine.show(DAEMON, "NRestarts") == "0"


def test_socket_and_bus_report_the_same_status(listening: Host, client: Client) -> None:
    listening.start()
    fetched_status, called = fetched(listening.machine), client.status()
    for status in (fetched_status, called):
        status.pop("history_usec", None)  # a reading may come between the two
        for device in status["devices"]:
            device.pop("sampled_usec")
            device.pop("history", None)
    assert fetched_status == called


def test_every_user_may_read(listening: Host) -> None:
    listening.start()
    assert consumers(fetched(listening.machine, user="nobody")) == ["alpha"]
    assert listening.machine.run(["stat", "--format=%a", PATH]).stdout.strip() == "666"


def test_socket_outlives_the_service(listening: Host) -> None:
    listening.start()
    listening.machine.systemctl("stop", DAEMON)
    assert listening.machine.show(SOCKET, "SubState") == "listening"
    assert consumers(fetched(listening.machine)) == ["alpha"]


def test_http_connection_during_a_crash_is_answered_by_the_restarted_daemon(listening: Host) -> None:
    listening.start()
    before = listening.machine.main_pid(DAEMON)
    listening.machine.systemctl("kill", "--signal=KILL", DAEMON)
    listening.machine.wait_until(lambda: listening.machine.main_pid(DAEMON) != before, "it is dead")
    assert consumers(fetched(listening.machine)) == ["alpha"]
    assert listening.machine.main_pid(DAEMON) not in (0, before)


def test_socket_restart_keeps_leases(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    lease, _ = client.acquire("alpha")
    host.machine.systemctl("restart", SOCKET)
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "active", "the daemon is back")
    assert [entry["id"] for entry in fetched(host.machine)["leases"]] == [lease]
    assert list(client.leases()) == [lease]


def test_stopped_socket_is_gone_and_comes_back(listening: Host) -> None:
    listening.start()
    listening.machine.systemctl("stop", SOCKET)
    assert listening.machine.run(STATUS, check=False).returncode == 7  # curl: could not connect
    listening.machine.systemctl("start", SOCKET)
    assert consumers(fetched(listening.machine)) == ["alpha"]


def test_enabling_the_service_enables_the_socket(host: Host) -> None:
    assert host.machine.systemctl("is-enabled", DAEMON, SOCKET).split() == ["enabled", "enabled"]
