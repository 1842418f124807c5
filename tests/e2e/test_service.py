"""gpumand as a service of systemd: start, activation, reload, restart, permissions, loss of the bus."""

from __future__ import annotations

from tests.e2e.client import Client
from tests.e2e.host import CONFIG, DAEMON, Host
from tests.e2e.machine import Machine, close

REFUSED = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"


def test_service_is_ready_when_its_start_has_returned(host: Host, client: Client) -> None:
    host.start()
    names = host.machine.run(["busctl", "--no-legend", "--acquired", "list"]).stdout
    assert "org.gpumand1" in names
    assert client.status()["consumers"] == []
    assert host.machine.show(DAEMON, "StatusText")


def test_bus_call_starts_the_stopped_service(host: Host, client: Client) -> None:
    host.consumer("alpha", 1000, unit=True)
    assert host.machine.show(DAEMON, "ActiveState") == "inactive"
    assert [entry["name"] for entry in client.status()["consumers"]] == ["alpha"]
    # A call is answered a moment before the service reports that it is ready.
    host.machine.wait_until(lambda: host.machine.show(DAEMON, "ActiveState") == "active", "the service is active")


def test_stop_ends_the_service_with_success(host: Host) -> None:
    host.start()
    host.machine.systemctl("stop", DAEMON)
    assert host.machine.show(DAEMON, "Result") == "success"
    assert host.machine.show(DAEMON, "ExecMainStatus") == "0"


def test_reload_takes_a_good_configuration(host: Host, client: Client) -> None:
    host.start()
    before = host.machine.main_pid(DAEMON)
    host.holder("alpha", 1000)
    host.machine.systemctl("reload", DAEMON)
    assert [entry["name"] for entry in client.status()["consumers"]] == ["alpha"], "it is in force when that returns"
    host.holder("beta", 1000)
    host.machine.systemctl("kill", "--signal=HUP", DAEMON)
    host.machine.wait_until(lambda: len(client.status()["consumers"]) == 2, "a signal does it too")
    assert host.machine.main_pid(DAEMON) == before


def test_reload_of_a_bad_configuration_changes_nothing_and_says_where(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    before = host.machine.main_pid(DAEMON)
    host.consumer("beta", 1000, "vram_residnt_mib = 3")
    assert host.machine.run(["systemctl", "reload", DAEMON], check=False).returncode == 1
    host.machine.wait_until(lambda: "vram_residnt_mib" in host.machine.journal(DAEMON), "the journal names the key")
    assert host.machine.main_pid(DAEMON) == before
    assert [entry["name"] for entry in client.status()["consumers"]] == ["alpha"]
    name, message = client.refusal("Reload")
    assert name == "org.gpumand1.Error.ConfigInvalid"
    assert CONFIG in message
    assert "vram_residnt_mib" in message
    assert host.machine.show(DAEMON, "ActiveState") == "active"


def test_start_with_a_bad_configuration_fails_and_says_where(host: Host) -> None:
    host.machine.write_file(CONFIG, "[scheduler]\ncushion_mb = 1\n")
    host.machine.systemctl("start", DAEMON, check=False)
    journal = host.machine.wait_until(lambda: _after(host.machine.journal(DAEMON), "cushion_mb"), "the journal says it")
    assert "Traceback" not in journal


def _after(text: str, word: str) -> str:
    return text if word in text else ""


def test_killed_service_is_started_again(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    client.acquire("alpha")
    before = host.machine.main_pid(DAEMON)
    host.machine.systemctl("kill", "--signal=KILL", DAEMON)
    host.machine.wait_until(lambda: host.machine.main_pid(DAEMON) not in (0, before), "systemd restarted it")
    client.await_residency("alpha", "resident")


def test_user_may_read_but_not_acquire(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    (status,) = client.call("GetStatus", user="nobody")
    assert [entry["name"] for entry in status["consumers"]] == ["alpha"]
    for call in (("Acquire", "alpha", "{}"), ("Load", "alpha", "{}"), ("Evict", "alpha", "{}"), ("Reload",)):
        assert client.refusal(*call, user="nobody")[0] == REFUSED
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"
    assert client.leases() == {}


def test_user_may_not_release_what_root_holds(host: Host, client: Client) -> None:
    host.holder("alpha", 1000)
    host.start()
    lease, _ = client.acquire("alpha")
    assert client.refusal("Release", lease, user="nobody")[0] == REFUSED
    assert client.refusal("Renew", lease, "0", user="nobody")[0] == REFUSED
    assert list(client.leases()) == [lease]


def test_user_may_not_own_the_name(host: Host) -> None:
    argv = ["dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus"]
    command = [*argv, "org.freedesktop.DBus.RequestName", "string:org.gpumand1", "uint32:0"]
    done = host.machine.run(command, user="nobody", check=False)
    assert "not allowed to own" in done.stderr


def test_loss_of_the_bus_ends_the_service_and_systemd_brings_both_back(own_machine: Machine) -> None:
    host = Host(own_machine, Client(own_machine))
    host.holder("alpha", 1000)
    host.start()
    lease, grant = host.client.acquire("alpha")
    bound = own_machine.start(["gpumanctl", "run", "alpha", "--", "sleep", "600"])
    own_machine.wait_until(lambda: len(host.client.leases()) == 2, "both stand")
    before = own_machine.main_pid(DAEMON)
    own_machine.systemctl("stop", "dbus.socket", "dbus.service")
    own_machine.wait_until(lambda: own_machine.main_pid(DAEMON) not in (0, before), "systemd started it again")
    assert f"{DAEMON}: Main process exited, code=exited, status=1/FAILURE" in own_machine.journal(DAEMON)
    own_machine.wait_until(lambda: own_machine.show(DAEMON, "ActiveState") == "active", "it is ready")
    assert host.client.status()["degraded"] == ""
    kept = host.client.leases()
    assert list(kept) == [lease], "a lease for a time does not hang on a bus, one for a connection does"
    assert kept[lease]["expires_usec"] == grant["expires_usec"]
    host.client.release(lease)
    close(bound)
