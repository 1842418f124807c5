"""Stops, restarts and shutdowns with real systemd and logind: which requests are refused, and which leases end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.client import ERROR, MANAGER, NAME, ROOT, Client
from tests.e2e.host import DAEMON, Host
from tests.e2e.machine import Machine, close
from tests.e2e.observer import Observer

LOGIND = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
ACQUIRE = ["gdbus", "call", "--system", "--timeout=60", f"--dest={NAME}", f"--object-path={ROOT}"]
ACQUIRE += [f"--method={MANAGER}.Acquire"]
PATIENT = "{'timeout_usec': <uint64 50000000>}"


@pytest.fixture
def observer(machine: Machine) -> Iterator[Observer]:
    one = Observer(machine)
    yield one
    one.close()


def two_that_do_not_fit(host: Host) -> str:
    """Start with two consumers that do not fit together, and a lease on the first. Returns the lease id."""
    host.holder("alpha", 14000)
    host.holder("beta", 14000)
    host.start()
    lease, _ = host.client.acquire("alpha")
    return lease


def waits(client: Client) -> bool:
    return [one["consumer"] for one in client.status()["queue"]] == ["beta"]


def test_restart_refuses_waiting_requests_and_keeps_leases_without_announcing_an_end(
    host: Host, client: Client, observer: Observer
) -> None:
    lease = two_that_do_not_fit(host)
    waiting = host.machine.start([*ACQUIRE, "beta", PATIENT])
    host.machine.wait_until(lambda: waits(client), "a request waits")
    host.machine.systemctl("restart", DAEMON)
    assert f"{ERROR}ShuttingDown: ShuttingDown: gpumand is stopping" in waiting.communicate(timeout=50)[1]
    assert list(client.leases()) == [lease]
    client.release(lease)
    host.machine.wait_until(lambda: observer.heard("LeaseEnded"), "the release is announced")
    assert observer.heard("LeaseEnded") == [[lease, "alpha", "released"]]


def test_stop_ends_leases_and_announces_their_end(host: Host, client: Client, observer: Observer) -> None:
    lease = two_that_do_not_fit(host)
    host.machine.systemctl("stop", DAEMON)
    host.machine.wait_until(lambda: observer.heard("LeaseEnded"), "the end is announced")
    assert observer.heard("LeaseEnded") == [[lease, "alpha", "shutdown"]]
    assert "leases end with gpumand: the service is stopped, not restarted" in host.machine.journal(DAEMON)
    assert client.leases() == {}, "also after the next start"


@pytest.mark.parametrize("number", ["TERM", "INT", "KILL"])
def test_signal_that_systemd_did_not_send_ends_no_lease(
    host: Host, client: Client, observer: Observer, number: str
) -> None:
    lease = two_that_do_not_fit(host)
    before = host.machine.main_pid(DAEMON)
    host.machine.run(["kill", f"-{number}", str(before)])
    host.machine.wait_until(lambda: host.machine.main_pid(DAEMON) not in (0, before), "it was started again")
    assert list(client.leases()) == [lease]
    assert observer.heard("LeaseEnded") == []


def test_restart_of_the_socket_under_it_ends_no_lease(host: Host, client: Client, observer: Observer) -> None:
    lease = two_that_do_not_fit(host)
    host.machine.systemctl("restart", "gpumand.socket")
    assert list(client.leases()) == [lease]
    assert observer.heard("LeaseEnded") == []


def test_only_logind_can_announce_a_shutdown(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    for member in ("PrepareForShutdown", "PrepareForSleep"):
        host.machine.run(["busctl", "emit", LOGIND[1], LOGIND[2], member, "b", "true"])
    lease, _ = client.acquire("alpha")
    assert list(client.leases()) == [lease]


def test_logind_that_is_restarted_changes_nothing(host: Host, client: Client) -> None:
    lease = two_that_do_not_fit(host)
    host.machine.systemctl("restart", "systemd-logind.service")
    client.release(lease)
    assert client.acquire("beta")[1]["evicted"] == ["alpha"]


def test_host_without_logind_is_served(host: Host, client: Client) -> None:
    host.machine.systemctl("mask", "--runtime", "--now", "systemd-logind.service")
    try:
        host.holder("alpha", 1000)
        host.start()
        assert client.acquire("alpha")[1]["loaded"]
        assert host.machine.systemctl("is-active", "systemd-logind.service", check=False).strip() != "active"
        assert "logind" not in host.machine.journal(DAEMON, since_usec=_started_usec(host))
    finally:
        host.machine.systemctl("unmask", "--runtime", "systemd-logind.service")
        host.machine.systemctl("start", "systemd-logind.service")


def _started_usec(host: Host) -> int:
    """Return the start time of the daemon, CLOCK_REALTIME in microseconds."""
    text = host.machine.systemctl("show", "--value", "--timestamp=unix", "--property=ExecMainStartTimestamp", DAEMON)
    return int(text.strip().removeprefix("@")) * 1_000_000


def test_shutdown_refuses_waiting_and_new_requests_and_ends_leases_last(own_machine: Machine) -> None:
    host = Host(own_machine, Client(own_machine))
    lease = two_that_do_not_fit(host)
    own_machine.systemctl("restart", "systemd-logind.service")  # the daemon must follow the restarted logind too
    observer = Observer(own_machine)
    waiting = own_machine.start([*ACQUIRE, "beta", PATIENT])
    own_machine.wait_until(lambda: waits(host.client), "a request waits")
    delay = ["systemd-inhibit", "--what=shutdown", "--mode=delay", "--who=e2e", "--why=test", "sleep", "60"]
    holding = own_machine.start(delay)
    own_machine.wait_until(lambda: "e2e" in own_machine.run(["systemd-inhibit", "--list"]).stdout, "it is delayed")

    own_machine.run(["busctl", "call", *LOGIND, "PowerOff", "b", "false"])

    assert f"{ERROR}ShuttingDown: ShuttingDown: the host is shutting down" in waiting.communicate(timeout=50)[1]
    assert host.client.refusal("Acquire", "alpha", "{}")[0] == f"{ERROR}ShuttingDown"
    assert list(host.client.leases()) == [lease]
    assert observer.heard("LeaseEnded") == []
    close(holding)
    own_machine.wait_until(lambda: not own_machine.container.alive, "the machine is off", 40)
    assert observer.heard("LeaseEnded") == [[lease, "alpha", "shutdown"]]
    observer.close()
