"""Leases end with their unit, their client or their time, and survive a crash of the daemon."""

from __future__ import annotations

import pytest

from tests.e2e.client import Client
from tests.e2e.host import DAEMON, Host

TAKE = "ExecStartPre=/usr/bin/gpumanctl acquire alpha --lifetime unit"


@pytest.fixture(autouse=True)
def daemon(host: Host) -> None:
    """A running daemon with one consumer."""
    host.holder("alpha", 10000)
    host.start()


def kill_daemon(host: Host) -> None:
    """Kill the daemon by SIGKILL and wait until systemd has restarted it and it is ready."""
    before = host.machine.main_pid(DAEMON)
    host.machine.systemctl("kill", "--signal=KILL", DAEMON)
    host.machine.wait_until(lambda: host.machine.main_pid(DAEMON) not in (0, before), "systemd restarted it")
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "active", "it is ready")


def test_unit_lease_ends_with_the_unit(host: Host, client: Client) -> None:
    host.unit("job", "/usr/bin/sleep infinity", TAKE)
    host.machine.systemctl("start", "job.service")
    (lease,) = client.leases().values()
    assert (lease["lifetime"], lease["consumer"]) == ("unit", "alpha")
    host.machine.systemctl("stop", "job.service")
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")


def test_unit_lease_ends_when_the_unit_crashes(host: Host, client: Client) -> None:
    host.unit("job", "/usr/bin/sleep infinity", TAKE)
    host.machine.systemctl("start", "job.service")
    assert len(client.leases()) == 1
    host.machine.systemctl("kill", "--signal=KILL", "job.service")
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")


def test_unit_lease_of_a_restarted_unit_is_a_new_one(host: Host, client: Client) -> None:
    host.unit("job", "/usr/bin/sleep infinity", TAKE)
    host.machine.systemctl("start", "job.service")
    (before,) = client.leases()
    host.machine.systemctl("restart", "job.service")
    host.machine.wait_until(lambda: before not in client.leases(), "the old lease ended")
    assert len(client.leases()) == 1


def test_consumer_that_acquires_itself_when_started_by_hand_does_not_deadlock(host: Host, client: Client) -> None:
    host.holder("selfish", 5000, TAKE.replace("alpha", "selfish"))
    host.machine.systemctl("reload", DAEMON)
    host.machine.wait_until(lambda: "selfish" in str(client.status()["consumers"]), "it is configured")
    host.machine.systemctl("start", "selfish.service", timeout=15)
    assert [lease["consumer"] for lease in client.leases().values()] == ["selfish"]
    client.await_residency("selfish", "resident")
    host.machine.systemctl("stop", "selfish.service")
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")


def test_consumer_that_acquires_itself_when_we_start_it_does_not_deadlock(host: Host, client: Client) -> None:
    host.holder("selfish", 5000, TAKE.replace("alpha", "selfish"))
    host.machine.systemctl("reload", DAEMON)
    host.machine.wait_until(lambda: "selfish" in str(client.status()["consumers"]), "it is configured")
    lease, _ = client.acquire("selfish", timeout_usec=15_000_000)
    assert lease in client.leases()
    assert host.machine.show("selfish.service", "ActiveState") == "active"


def run_holding(host: Host, client: Client) -> str:
    """Start a unit in which ``gpumanctl run`` holds a connection lease. Returns the lease id."""
    host.unit("runner", "/usr/bin/gpumanctl run alpha -- sleep infinity")
    host.machine.systemctl("start", "runner.service")
    (lease,) = host.machine.wait_until(client.leases, "gpumanctl run has its lease")
    assert client.leases()[lease]["lifetime"] == "connection"
    return lease


def test_connection_lease_ends_when_its_client_is_killed(host: Host, client: Client) -> None:
    run_holding(host, client)
    host.machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", "runner.service")
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")


def test_ttl_lease_ends_in_time(host: Host, client: Client) -> None:
    lease, _ = client.acquire("alpha", ttl_usec=300_000)
    host.machine.wait_until(lambda: lease not in client.leases(), "the lease ended", deadline_sec=5)


def test_ttl_lease_survives_the_death_of_the_daemon(host: Host, client: Client) -> None:
    lease, _ = client.acquire("alpha", ttl_usec=600_000_000, reason="a long render")
    before = client.leases()[lease]
    kill_daemon(host)
    after = client.leases()[lease]
    kept = ("consumer", "device", "owner_uid", "lifetime", "granted_usec", "expires_usec", "reason")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert client.await_residency("alpha", "resident")["leases"] == 1
    client.release(lease)
    assert client.leases() == {}


def test_connection_lease_survives_the_death_of_the_daemon_and_ends_with_its_client(host: Host, client: Client) -> None:
    lease = run_holding(host, client)
    kill_daemon(host)
    assert lease in client.leases()
    host.machine.systemctl("kill", "--kill-whom=main", "--signal=KILL", "runner.service")
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")


def test_unit_lease_survives_the_death_of_the_daemon_and_ends_with_its_unit(host: Host, client: Client) -> None:
    host.unit("job", "/usr/bin/sleep infinity", TAKE)
    host.machine.systemctl("start", "job.service")
    (lease,) = client.leases()
    kill_daemon(host)
    assert lease in client.leases()
    host.machine.systemctl("stop", "job.service")
    host.machine.wait_until(lambda: client.leases() == {}, "the lease ended")


def test_connection_lease_of_a_client_that_died_with_the_daemon_is_gone(host: Host, client: Client) -> None:
    lease = run_holding(host, client)
    host.machine.systemctl("kill", "--signal=KILL", DAEMON, "runner.service")
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "active", "it is ready")
    host.machine.wait_until(lambda: lease not in client.leases(), "the lease ended")
