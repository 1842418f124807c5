"""Restarts of the daemon by systemd: when they happen, and that leases survive them."""

from __future__ import annotations

import pytest

from tests.e2e.client import Client
from tests.e2e.host import CONFIG, DAEMON, Host

EX_CONFIG = "78"
SOCKET = "gpumand.socket"
CURL = ["curl", "--silent", "--show-error", "--max-time", "20", "--unix-socket", "/run/gpumand.sock"]
HEALTH = [*CURL, "--write-out", "%{http_code}", "http://localhost/healthz"]


@pytest.fixture
def lease(host: Host, client: Client) -> str:
    """A ttl lease of a running daemon."""
    host.holder("alpha", 1000)
    host.start()
    return client.acquire("alpha")[0]


def end(host: Host, number: str) -> None:
    """End the daemon by a signal that systemd did not send, and wait for its replacement."""
    before = host.machine.main_pid(DAEMON)
    host.machine.run(["kill", f"-{number}", str(before)])
    host.machine.wait_until(lambda: host.machine.main_pid(DAEMON) not in (0, before), "systemd started it again")


def test_a_bad_configuration_is_not_tried_again_and_costs_no_lease(host: Host, client: Client, lease: str) -> None:
    good = host.machine.run(["cat", CONFIG]).stdout
    host.machine.write_file(CONFIG, f"{good}\n[scheduler]\n")
    host.machine.systemctl("restart", DAEMON, check=False)
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "failed", "it has ended")
    assert host.machine.show(DAEMON, "ExecMainStatus") == EX_CONFIG
    assert host.machine.show(DAEMON, "NRestarts") == "0"
    host.machine.write_file(CONFIG, good)
    assert list(client.leases()) == [lease], "the call has started it again"
    assert client.await_residency("alpha", "resident")["leases"] == 1


def test_http_request_does_not_restart_a_daemon_with_a_bad_configuration_forever(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.machine.systemctl("start", SOCKET)
    good = host.machine.run(["cat", CONFIG]).stdout
    host.machine.write_file(CONFIG, f"{good}\n[scheduler]\n")
    before = failures(host)
    for _ in range(2):
        answer = host.machine.run(HEALTH).stdout
        assert "its configuration has errors" in answer
        assert "503" in answer
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "failed", "it has ended")
    # Unread data at the socket would have started it already: systemd checks the socket as soon as the service fails.
    assert failures(host) - before == 2
    assert host.machine.show(DAEMON, "ActiveState") == "failed"
    assert host.machine.show(SOCKET, "SubState") == "listening"
    host.machine.write_file(CONFIG, good)
    assert "200" in host.machine.run(HEALTH).stdout, "the next connection has started it"


def failures(host: Host) -> int:
    return host.machine.journal(DAEMON, lines=10_000).count(f"status={EX_CONFIG}/CONFIG")


def test_daemon_terminated_by_another_program_is_restarted(host: Host, client: Client, lease: str) -> None:
    end(host, "TERM")  # as earlyoom does, or a user of htop
    assert list(client.leases()) == [lease]


def test_daemon_stopped_by_systemctl_stays_stopped(host: Host, client: Client, lease: str) -> None:
    host.machine.systemctl("stop", DAEMON)
    assert host.machine.show(DAEMON, "ActiveState") == "inactive"
    assert host.machine.show(DAEMON, "Result") == "success"


def test_installed_unit_restarts_after_several_crashes(host: Host, client: Client, lease: str) -> None:
    for _ in range(8):  # systemd's default is five in ten seconds
        end(host, "KILL")
    assert list(client.leases()) == [lease]
    assert host.machine.show("gpumand.socket", "ActiveState") == "active"
