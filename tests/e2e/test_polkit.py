"""Permissions of users with the real polkitd, also when polkitd hangs or is not installed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.client import MANAGER, NAME, ROOT, Client, plain
from tests.e2e.host import Host
from tests.e2e.machine import Machine

DENIED = "org.freedesktop.DBus.Error.AccessDenied"
CHALLENGED = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
POLKIT = "polkit.service"
MONITOR, HEARD = "e2e-polkit-monitor", "/run/e2e-polkit-questions"
OUTSIDER, MEMBER, OTHER_MEMBER = "e2e-outsider", "e2e-member", "e2e-other-member"
USERS = {OUTSIDER: [], MEMBER: ["--groups=gpumand"], OTHER_MEMBER: ["--groups=gpumand"]}
ACQUIRE = ("Acquire", "sa{sv}", "alpha", "0")


@pytest.fixture(scope="session")
def machine(each_debian: Machine) -> Machine:
    """Run with the polkit of each Debian release."""
    return each_debian


@pytest.fixture(autouse=True)
def people(host: Host) -> Iterator[None]:
    """A running daemon with one consumer; a user outside the group, and two members."""
    for name, more in USERS.items():
        host.machine.run(["useradd", "--no-create-home", *more, name])
    host.holder("alpha", 10000)
    host.start()
    yield
    host.machine.systemctl("stop", MONITOR, check=False)
    host.machine.systemctl("unmask", "--runtime", POLKIT)
    host.machine.systemctl("kill", "--signal=KILL", POLKIT, check=False)
    for name in USERS:
        host.machine.run(["userdel", name])
    host.machine.remove(HEARD)


def take(client: Client, user: str = "") -> str:
    """Call Acquire as this user. Returns the lease id."""
    lease, _ = client.call(*ACQUIRE, user=user)
    assert isinstance(lease, str)
    return lease


def test_user_outside_the_group_may_read_but_not_acquire(host: Host, client: Client) -> None:
    name, message = client.refusal("Acquire", "alpha", "{}", user=OUTSIDER)
    assert name == CHALLENGED
    assert f"user {OUTSIDER} must authenticate to acquire alpha (org.gpumand1.acquire)" in message
    assert len(client.call("GetStatus", user=OUTSIDER)) == 1
    assert client.leases() == {}
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"


def test_user_without_an_authentication_agent_is_refused_with_the_command_that_adds_the_user_to_the_group(
    host: Host, client: Client
) -> None:
    argv = ["gdbus", "call", "--system", "--interactive", f"--dest={NAME}", f"--object-path={ROOT}"]
    done = host.machine.run([*argv, f"--method={MANAGER}.Acquire", "alpha", "{}"], user=OUTSIDER, check=False)
    assert DENIED in done.stderr
    assert f"user {OUTSIDER} may not acquire alpha: no authentication agent is running" in done.stderr
    assert f"Add {OUTSIDER} to the gpumand group (sudo gpasswd --add {OUTSIDER} gpumand, then " in done.stderr
    assert client.leases() == {}


def test_member_of_the_group_may_acquire_and_load_and_nothing_else(host: Host, client: Client) -> None:
    lease = take(client, MEMBER)
    uid = int(host.machine.run(["id", "-u", MEMBER]).stdout)
    assert client.leases()[lease]["owner_uid"] == uid
    client.call("Release", "s", lease, user=MEMBER)
    client.call("Load", "sa{sv}", "alpha", "0", user=MEMBER)
    for method, *arguments in (("Evict", "alpha", "{'force': <true>}"), ("Pin", "alpha"), ("Reload",)):
        assert client.refusal(method, *arguments, user=MEMBER)[0] == CHALLENGED
    assert host.machine.show("alpha.service", "ActiveState") == "active"
    assert client.consumer("alpha")["pinned"] is False


def test_member_that_left_the_group_is_refused_from_then_on(host: Host, client: Client) -> None:
    client.call("Release", "s", take(client, MEMBER), user=MEMBER)
    host.machine.run(["gpasswd", "--delete", MEMBER, "gpumand"])
    assert client.refusal("Acquire", "alpha", "{}", user=MEMBER)[0] == CHALLENGED


def test_root_may_call_everything(client: Client) -> None:
    lease = take(client, MEMBER)
    client.call("Renew", "st", lease, "0")
    client.release(lease)
    for method in ("Pin", "Unpin"):
        client.call(method, "s", "alpha")
    client.call("Reload")
    client.call("Evict", "sa{sv}", "alpha", "0")
    assert client.leases() == {}


@pytest.mark.parametrize("user", [OUTSIDER, OTHER_MEMBER])
def test_lease_of_another_user_cannot_be_released_or_renewed(client: Client, user: str) -> None:
    lease = take(client, MEMBER)
    before = client.leases()
    assert client.refusal("Release", lease, user=user)[0] == CHALLENGED
    assert client.refusal("Renew", lease, "0", user=user)[0] == CHALLENGED
    assert client.leases() == before


def test_owner_may_release_and_renew_from_another_connection(client: Client) -> None:
    lease = take(client, MEMBER)
    client.call("Renew", "st", lease, "0", user=MEMBER)
    client.call("Release", "s", lease, user=MEMBER)
    assert client.leases() == {}


def test_without_polkit_only_root_and_lease_owners_are_allowed(host: Host, client: Client) -> None:
    lease = take(client, MEMBER)
    host.machine.systemctl("mask", "--runtime", POLKIT)
    host.machine.systemctl("stop", POLKIT)
    for user in (OUTSIDER, MEMBER):
        name, message = client.refusal("Acquire", "alpha", "{}", user=user)
        assert name == DENIED
        assert "may not acquire alpha: polkit cannot be asked" in message
        assert "polkit cannot be asked" in message
    client.call("Release", "s", lease, user=MEMBER)
    client.release(take(client))
    host.machine.systemctl("unmask", "--runtime", POLKIT)
    client.call("Release", "s", take(client, MEMBER), user=MEMBER)


def asked_of_a_polkit_that_is_stuck(host: Host, client: Client) -> subprocess.Popen[str]:
    """Start Acquire as a member of the group while polkitd is stopped and does not answer."""
    client.call("Release", "s", take(client, MEMBER), user=MEMBER)  # polkit is running and knows the daemon
    output = [f"--property=StandardOutput=file:{HEARD}", "--property=StandardError=inherit"]
    watching = ["busctl", "monitor", "--match=type='method_call',member='CheckAuthorization'"]
    host.machine.run(["systemd-run", f"--unit={MONITOR}", *output, *watching])
    await_heard(host, "Monitoring")
    host.machine.systemctl("kill", "--signal=STOP", POLKIT)
    argv = ["busctl", "--json=short", "--timeout=40", "call", NAME, ROOT, MANAGER, *ACQUIRE]
    waiting = host.machine.start(argv, user=MEMBER)
    await_heard(host, "Member=CheckAuthorization")
    return waiting


def await_heard(host: Host, text: str) -> None:
    """Wait for a text in the output of the monitor."""
    host.machine.wait_until(
        lambda: text in host.machine.run(["cat", HEARD], check=False).stdout, f"the monitor says {text!r}"
    )


def test_polkit_that_is_stuck_delays_only_its_caller(host: Host, client: Client) -> None:
    waiting = asked_of_a_polkit_that_is_stuck(host, client)
    client.release(take(client))
    assert len(client.call("GetStatus", user=OUTSIDER)) == 1
    assert waiting.poll() is None
    host.machine.systemctl("kill", "--signal=CONT", POLKIT)
    said, _ = waiting.communicate(timeout=30)
    assert plain(json.loads(said))[0] in client.leases()


def test_request_is_repeated_after_a_polkit_crash(host: Host, client: Client) -> None:
    waiting = asked_of_a_polkit_that_is_stuck(host, client)
    host.machine.systemctl("kill", "--signal=KILL", POLKIT)
    said, errors = waiting.communicate(timeout=30)
    assert waiting.returncode == 0, errors
    assert plain(json.loads(said))[0] in client.leases()
