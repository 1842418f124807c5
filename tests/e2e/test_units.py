"""Consumers that are real units: loaded by a start, evicted by a stop, and watched for other starts and stops."""

from __future__ import annotations

import pytest

from tests.e2e.client import ERROR, NAME, Client
from tests.e2e.host import TOTAL_MIB, VRAM_DIR, Host, holding

SIGNALS = "/run/e2e-signals"


def test_acquire_starts_the_unit_and_sees_its_memory(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.start()
    lease, grant = client.acquire("alpha")
    assert host.machine.show("alpha.service", "ActiveState") == "active"
    assert (grant["consumer"], grant["device"], grant["loaded"], grant["evicted"]) == ("alpha", "0", True, [])
    client.await_memory("alpha", 10000)
    assert list(client.leases()) == [lease]


def test_acquire_of_a_running_unit_loads_nothing(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.machine.systemctl("start", "alpha.service")
    host.start()
    client.await_residency("alpha", "resident")
    _, grant = client.acquire("alpha")
    assert grant["loaded"] is False


def test_eviction_stops_the_unit_with_its_grandchildren(host: Host, client: Client) -> None:
    parent = f"/bin/sh -c 'setsid sleep infinity & setsid {holding('alpha', 10000)} & wait'"
    host.unit("alpha", parent)
    host.consumer("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    pids = host.machine.wait_until(lambda: _at_least(host.machine.pids("alpha.service"), 3), "the unit has forked")
    _, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"
    assert host.machine.alive(pids) == set()
    assert client.status()["stats"]["evictions"] == 1


def _at_least(pids: set[int], number: int) -> set[int]:
    return pids if len(pids) >= number else set()


def test_eviction_is_announced_before_the_grant(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    output = f"--property=StandardOutput=file:{SIGNALS}"
    host.machine.run(["systemd-run", "--unit=e2e-monitor", output, "gdbus", "monitor", "--system", f"--dest={NAME}"])
    _await_signal(host, "is owned by")
    lease, _ = client.acquire("beta")
    _await_signal(host, f"LeaseGranted ('{lease}', 'beta')")
    said = [line.split("Manager.")[1] for line in _signals(host).splitlines() if "Manager." in line]
    evicted = next(line for line in said if line.startswith("EvictionOccurred"))
    assert evicted.startswith("EvictionOccurred ('alpha', '0', uint64 10000, 'unit-stop', 'beta', {")
    assert said.index(evicted) < said.index(next(line for line in said if line.startswith("LeaseGranted")))
    host.machine.systemctl("stop", "e2e-monitor.service")


def _signals(host: Host) -> str:
    return host.machine.run(["cat", SIGNALS], check=False).stdout


def _await_signal(host: Host, text: str) -> None:
    host.machine.wait_until(lambda: text in _signals(host), f"gdbus monitor says {text!r}")


def test_leased_consumer_is_not_evicted(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.acquire("alpha")
    name, message = client.refusal("Acquire", "beta", "{'timeout_usec': <uint64 0>}")
    assert name == f"{ERROR}Busy"
    assert "alpha" in message
    assert host.machine.show("alpha.service", "ActiveState") == "active"


def test_unit_that_ignores_sigterm_is_evicted(host: Host, client: Client) -> None:
    host.unit("alpha", f"/bin/sh -c 'trap \"\" TERM; {holding('alpha', 10000)}; sleep 60'", "TimeoutStopSec=1")
    host.consumer("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    _, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]


def test_unit_that_fails_at_once_is_load_failed_with_result_and_log(host: Host, client: Client) -> None:
    host.unit("broken", "/bin/sh -c 'echo no such model file >&2; exit 3'", "Type=notify")
    host.consumer("broken", 1000)
    host.start()
    name, message = client.refusal("Acquire", "broken", "{}")
    assert name == f"{ERROR}LoadFailed"
    assert "exit-code" in message
    assert "no such model file" in message
    assert client.consumer("broken")["residency"] == "failed"
    assert client.leases() == {}


def test_unit_that_dies_under_a_lease_is_noticed(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.start()
    client.acquire("alpha")
    client.await_memory("alpha", 10000)
    host.machine.systemctl("kill", "--signal=KILL", "alpha.service")
    client.await_residency("alpha", "unloaded")
    host.machine.wait_until(lambda: client.status()["devices"][0]["free_mib"] == TOTAL_MIB, "its memory is free")


def test_failed_consumer_backs_off_and_says_how_long(host: Host, client: Client) -> None:
    host.unit("broken", "/bin/false", "Type=notify")
    host.consumer("broken", 1000)
    host.start()
    assert client.refusal("Acquire", "broken", "{}")[0] == f"{ERROR}LoadFailed"
    name, message = client.refusal("Acquire", "broken", "{}")
    assert name == f"{ERROR}ConsumerBackingOff"
    assert any(character.isdigit() for character in message)


def test_masked_unit_is_load_failed_and_named(host: Host, client: Client) -> None:
    host.consumer("hidden", 1000)
    host.machine.systemctl("mask", "hidden.service")
    host.start()
    name, message = client.refusal("Acquire", "hidden", "{}")
    host.machine.systemctl("unmask", "hidden.service")
    assert name == f"{ERROR}LoadFailed"
    assert "masked" in message
    assert "hidden.service" in message


def test_missing_unit_is_load_failed_and_named(host: Host, client: Client) -> None:
    host.consumer("absent", 1000)
    host.start()
    name, message = client.refusal("Acquire", "absent", "{}")
    assert name == f"{ERROR}LoadFailed"
    assert "absent.service" in message
    assert "not" in message


def test_restart_always_does_not_bring_an_evicted_unit_back(host: Host, client: Client) -> None:
    host.holder("alpha", 10000, "Restart=always", "RestartSec=10ms")
    host.holder("beta", 16000)
    host.start()
    client.use("alpha", 10000)
    client.acquire("beta")
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"
    assert client.consumer("alpha")["residency"] == "unloaded"


def test_restart_always_unit_that_dies_is_resident_again(host: Host, client: Client) -> None:
    host.holder("alpha", 10000, "Restart=always", "RestartSec=10ms")
    host.start()
    lease, _ = client.acquire("alpha")
    before = host.machine.main_pid("alpha.service")
    host.machine.systemctl("kill", "--signal=KILL", "alpha.service")
    host.machine.wait_until(lambda: host.machine.main_pid("alpha.service") not in (0, before), "systemd restarted it")
    client.await_residency("alpha", "resident")
    assert lease in client.leases()


def test_unit_stopped_outside_gpumand_is_noticed(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.start()
    client.use("alpha", 10000)
    host.machine.systemctl("stop", "alpha.service")
    client.await_residency("alpha", "unloaded")


def test_unit_started_outside_gpumand_is_accounted_for(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    host.machine.systemctl("start", "alpha.service")
    client.await_memory("alpha", 10000)
    _, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]


def test_memory_that_a_started_unit_has_yet_to_take_is_reserved(host: Host, client: Client) -> None:
    host.unit("alpha", f"/bin/sh -c 'sleep 3; exec {holding('alpha', 10000)}'")
    host.consumer("alpha", 10000)
    host.holder("beta", 16000)
    host.start()
    client.release(client.acquire("alpha")[0])
    _, grant = client.acquire("beta")
    assert grant["evicted"] == ["alpha"]
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"


def test_refusal_names_the_foreign_memory_in_the_way(host: Host, client: Client) -> None:
    host.holder("beta", 16000)
    host.start()
    command = holding("notebook", 12000).split()
    host.machine.run(["systemd-run", "--unit=notebook", *command])
    host.machine.wait_until(lambda: client.status()["devices"][0]["foreign_mib"] == 12000, "foreign memory is seen")
    name, _ = client.refusal("Acquire", "beta", "{'timeout_usec': <uint64 0>}")
    host.machine.systemctl("stop", "notebook.service")
    assert name == f"{ERROR}InsufficientVram"


@pytest.mark.parametrize("force", [False, True])
def test_manual_eviction_of_a_leased_consumer_needs_force(host: Host, client: Client, force: bool) -> None:
    host.holder("alpha", 10000)
    host.start()
    client.acquire("alpha")
    if force:
        client.call("Evict", "sa{sv}", "alpha", "1", "force", "b", "true")
    else:
        assert client.refusal("Evict", "alpha", "{}")[0] == f"{ERROR}Busy"
    assert host.machine.show("alpha.service", "ActiveState") == ("inactive" if force else "active")
    assert len(client.leases()) == (0 if force else 1)


def test_residency_after_a_start_comes_from_observations(host: Host, client: Client) -> None:
    host.holder("alpha", 10000)
    host.holder("beta", 2000)
    host.machine.systemctl("start", "alpha.service")
    host.start()
    client.await_residency("alpha", "resident")
    assert client.consumer("beta")["residency"] == "unloaded"
    assert host.machine.run(["ls", VRAM_DIR]).stdout.split() == [str(host.machine.main_pid("alpha.service"))]
