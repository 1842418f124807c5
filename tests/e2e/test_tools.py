"""The D-Bus API through the tools of every host: busctl and gdbus."""

from __future__ import annotations

import json
import re

import pytest

from tests.e2e.client import ERROR, MANAGER, NAME, ROOT, Client
from tests.e2e.host import TOTAL_MIB, Host

GDBUS = ("gdbus", "call", "--system", f"--dest={NAME}", f"--object-path={ROOT}", "--method")


@pytest.fixture(autouse=True)
def daemon(host: Host) -> None:
    """A daemon with two consumers, one of them with a dash in its name."""
    host.holder("alpha", 10000)
    host.holder("tts-fast", 2000)
    host.start()


def test_busctl_gets_the_status(client: Client) -> None:
    status = client.status()
    (device,) = status["devices"]
    assert (device["index"], device["source"], device["total_mib"]) == (0, "simulated", TOTAL_MIB)
    assert {entry["name"]: entry["residency"] for entry in status["consumers"]} == {
        "alpha": "unloaded",
        "tts-fast": "unloaded",
    }
    assert (status["leases"], status["queue"], status["degraded"]) == ([], [], "")


def test_busctl_tree_shows_every_object(host: Host, client: Client) -> None:
    lease, _ = client.acquire("alpha")
    shown = host.machine.run(["busctl", "tree", "--list", NAME]).stdout.split()
    consumers = [f"{ROOT}/consumer/alpha", f"{ROOT}/consumer/tts_2dfast"]
    assert {ROOT, f"{ROOT}/device/0", f"{ROOT}/lease/{lease}", *consumers} <= set(shown)


def test_busctl_introspect_shows_the_manager(host: Host) -> None:
    shown = host.machine.run(["busctl", "--no-legend", "introspect", NAME, ROOT, MANAGER]).stdout
    members = {line.split()[0]: line.split()[1:4] for line in shown.splitlines()}
    assert members[".Acquire"] == ["method", "sa{sv}", "sa{sv}"]
    assert members[".GetStatus"] == ["method", "-", "a{sv}"]
    assert members[".EvictionOccurred"][:2] == ["signal", "sstssa{sv}"]
    assert members[".LeaseCount"][:2] == ["property", "u"]


@pytest.mark.parametrize(("name", "value"), [("QueueLength", "u 0"), ("LeaseCount", "u 0"), ("EvictionCount", "t 0")])
def test_busctl_gets_a_property(host: Host, name: str, value: str) -> None:
    assert host.machine.run(["busctl", "get-property", NAME, ROOT, MANAGER, name]).stdout.strip() == value


def test_busctl_counts_a_lease_in_a_property(host: Host, client: Client) -> None:
    client.acquire("alpha")
    assert host.machine.run(["busctl", "get-property", NAME, ROOT, MANAGER, "LeaseCount"]).stdout.strip() == "u 1"


def test_busctl_gets_managed_objects(host: Host) -> None:
    argv = ["busctl", "--json=short", "call", NAME, ROOT, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"]
    (objects,) = json.loads(host.machine.run(argv).stdout)["data"]
    assert "org.gpumand1.Consumer" in objects[f"{ROOT}/consumer/alpha"]
    assert "org.gpumand1.Device" in objects[f"{ROOT}/device/0"]


def test_gdbus_introspects(host: Host) -> None:
    shown = host.machine.run(["gdbus", "introspect", "--system", f"--dest={NAME}", f"--object-path={ROOT}"]).stdout
    assert "interface org.gpumand1.Manager {" in shown
    assert {"Acquire", "Release", "GetStatus", "EvictionFailed"} <= set(re.findall(r"\b(\w+)\(", shown))


def test_gdbus_acquires_and_releases(host: Host, client: Client) -> None:
    options = "{'reason': <'a render'>, 'timeout_usec': <uint64 15000000>, 'priority': <5>}"
    answer = host.machine.run([*GDBUS, f"{MANAGER}.Acquire", "alpha", options]).stdout
    lease = answer.split("'")[1]
    assert client.leases()[lease]["reason"] == "a render"
    host.machine.run([*GDBUS, f"{MANAGER}.Release", lease])
    assert client.leases() == {}


def test_ttl_lease_outlives_the_busctl_that_took_it(client: Client) -> None:
    lease, grant = client.acquire("alpha", ttl_usec=60_000_000)
    entry = client.leases()[lease]
    assert (entry["lifetime"], entry["owner_uid"], entry["consumer"]) == ("ttl", 0, "alpha")
    assert entry["expires_usec"] == grant["expires_usec"] > entry["granted_usec"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("Acquire", "alhpa", "{}"), f"{ERROR}NoSuchConsumer"),
        (("Acquire", "alpha", "{'nonsense': <1>}"), "org.freedesktop.DBus.Error.InvalidArgs"),
        (("Acquire", "alpha", "{'ttl_usec': <uint64 0>}"), "org.freedesktop.DBus.Error.InvalidArgs"),
        (("Acquire", "alpha", "{'device': <'7'>}"), f"{ERROR}NoSuchDevice"),
        (("Release", "nonsense"), f"{ERROR}NoSuchLease"),
        (("Renew", "nonsense", "0"), f"{ERROR}NoSuchLease"),
    ],
)
def test_wrong_call_is_refused_by_name_in_one_line(client: Client, arguments: tuple[str, ...], error: str) -> None:
    name, message = client.refusal(*arguments)
    assert name == error
    assert message
    assert "Traceback" not in message


def test_plan_describes_an_acquire_and_changes_nothing(host: Host, client: Client) -> None:
    (plan,) = client.call("Plan", "sa{sv}", "alpha", "0")
    assert (plan["verdict"], plan["load"], plan["need_mib"]) == ("grant", True, 10256)
    assert host.machine.show("alpha.service", "ActiveState") == "inactive"


def test_gpumanctl_shows_consumers_and_devices(host: Host) -> None:
    shown = host.machine.run(["gpumanctl", "--no-pager"]).stdout
    assert "alpha" in shown
    assert "tts-fast" in shown


def test_gpumanctl_exits_4_for_an_unknown_consumer(host: Host) -> None:
    done = host.machine.run(["gpumanctl", "acquire", "alhpa"], check=False)
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1
