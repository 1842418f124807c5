"""Every method, as busctl, gdbus and programs call it."""

from __future__ import annotations

import json
import os

import pytest
from dbus_fast import Variant

from gpumand.bus.authorization import Action, Details, UidAuthority
from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.machine_id import read_machine_id
from gpumand.bus.names import BUS_NAME, MANAGER, PEER, ROOT_PATH
from gpumand.domain.errors import (
    Busy,
    ConfigInvalid,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    GpumandError,
    InsufficientVram,
    InteractiveAuthorizationRequired,
    LimitsExceeded,
    LoadFailed,
    NoSuchDevice,
    ShuttingDown,
    TimedOut,
)
from gpumand.domain.lease import LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.request import AcquireOptions
from tests.integration.bus.conftest import Client, House, served_on
from tests.integration.bus.private_bus import Finished, PolicyBus
from tests.scripted_arbiter import DEFAULT_TTL_SEC, GRANTED_USEC


def refusal_of(finished: Finished) -> str:
    assert finished.returncode == 1
    assert finished.out == ""
    return finished.err.strip()


async def test_acquire_renew_and_release_by_busctl(house: House) -> None:
    lease, grant = (await house.bus.call("Acquire", "sa{sv}", "ollama", "0")).json()
    assert grant == {
        "consumer": "ollama",
        "device": "0",
        "waited_usec": 7,
        "evicted": ["comfyui"],
        "loaded": True,
        "expires_usec": GRANTED_USEC + int(DEFAULT_TTL_SEC * 1e6),
        "endpoint": "http://127.0.0.1:1/",
    }
    assert (await house.bus.call("Renew", "st", lease, "0")).json() == [GRANTED_USEC + int(DEFAULT_TTL_SEC * 1e6) + 1]
    assert (await house.bus.call("Renew", "st", lease, "5000000")).json() == [GRANTED_USEC + 5_000_001]
    assert (await house.bus.call("Release", "s", lease)).returncode == 0
    assert house.arbiter.leases == {}
    assert house.arbiter.calls[1:] == [
        ("renew", lease, None),
        ("renew", lease, 5.0),
        ("release", lease, LeaseEnd.RELEASED),
    ]


async def test_acquire_by_gdbus_with_options(house: House) -> None:
    options = "{'lifetime': <'ttl'>, 'ttl_usec': <60000000>, 'priority': <uint32 7>, 'reason': <'nightly'>}"
    where = ("--session", "--dest", "org.gpumand1", "--object-path", "/org/gpumand1")
    answer = await house.bus.gdbus("call", *where, "--method", "org.gpumand1.Manager.Acquire", "ollama", options)
    assert answer.out.startswith("('a0001', {'consumer': <'ollama'>"), answer.err
    _, owner, consumer, given = house.arbiter.calls[0]
    assert consumer == "ollama"
    assert given == AcquireOptions(ttl_sec=60.0, priority=7, reason="nightly")
    assert isinstance(owner, Owner)
    assert owner.uid == os.getuid()
    assert owner.pid > 0
    assert owner.bus_name.startswith(":1.")


async def test_status_has_everything_in_it(house: House) -> None:
    await house.bus.call("Acquire", "sa{sv}", "ollama", "1", "reason", "s", "a test")
    (status,) = (await house.bus.call("GetStatus")).json()
    assert status["version"] == "1.2.3"
    assert [consumer["name"] for consumer in status["consumers"]] == ["ollama", "comfyui", "über/geek"]
    assert status["devices"][0]["free_mib"] == 16564
    (lease,) = status["leases"]
    assert (lease["consumer"], lease["owner_uid"], lease["reason"]) == ("ollama", os.getuid(), "a test")
    assert status["queue"] == []
    assert status["stats"]["unload_usec"] == 8


async def test_plan_by_busctl(house: House) -> None:
    (plan,) = (await house.bus.call("Plan", "sa{sv}", "ollama", "1", "device", "s", "0")).json()
    assert plan["verdict"] == "grant"
    assert plan["need_mib"] == 4352
    assert "free_mib" not in plan
    victim = {"consumer": "comfyui", "method": "http", "why": "least recently used", "parks": False}
    assert plan["evictions"] == [victim]
    assert plan["spared"] == [{"consumer": "ollama", "why": "pinned"}]


async def test_load_evict_pin_unpin_and_reload(house: House) -> None:
    (loaded,) = (
        await house.bus.call("Load", "sa{sv}", "ollama", "2", "device", "s", "0", "timeout_usec", "i", "0")
    ).json()
    (evicted,) = (await house.bus.call("Evict", "sa{sv}", "ollama", "1", "force", "b", "true")).json()
    assert loaded == {
        "consumer": "ollama",
        "device": "0",
        "changed": True,
        "evicted": ["comfyui"],
        "method": "",
        "freed_mib": 0,
        "duration_usec": 12,
    }
    assert (evicted["method"], evicted["freed_mib"]) == ("http", 4000)
    for member in ("Pin", "Unpin"):
        assert (await house.bus.call(member, "s", "ollama")).returncode == 0
    assert (await house.bus.call("Reload")).returncode == 0
    assert house.arbiter.calls == [
        ("load", "ollama", "0", 0.0),
        ("evict", "ollama", True, 20.0, ""),
        ("pin", "ollama", True),
        ("pin", "ollama", False),
        ("reload",),
    ]


@pytest.mark.parametrize(
    "error",
    [
        Busy("leases stand in the way"),
        TimedOut("waited 20 s"),
        InsufficientVram("needs 9000 MiB"),
        NoSuchDevice("no device '9'"),
        LoadFailed("the unit failed"),
        EvictionFailed("nothing worked"),
        ConsumerBackingOff("9 s left"),
        DeviceUnavailable("the device is lost"),
        ShuttingDown("gpumand is stopping"),
        LimitsExceeded("64 leases"),
    ],
)
async def test_errors_keep_their_names(client: Client, house: House, error: GpumandError) -> None:
    house.arbiter.errors["acquire"] = error
    with pytest.raises(BusError) as refusal:
        await client.call("Acquire", "sa{sv}", "ollama", {})
    assert (refusal.value.name, refusal.value.message) == (error.dbus_name, error.message)


async def test_refused_reload_says_where(house: House) -> None:
    house.arbiter.errors["reload"] = ConfigInvalid("/etc/gpumand/gpumand.toml:3: unknown key 'foo'")
    assert refusal_of(await house.bus.call("Reload")) == "Call failed: /etc/gpumand/gpumand.toml:3: unknown key 'foo'"


@pytest.mark.parametrize("member", ["Acquire", "Plan", "Load", "Evict"])
async def test_unknown_consumer_and_unknown_option_are_named(house: House, member: str) -> None:
    assert "no consumer 'nope'" in refusal_of(await house.bus.call(member, "sa{sv}", "nope", "0"))
    refused = await house.bus.call(member, "sa{sv}", "ollama", "1", "timeout_usecs", "t", "1")
    assert "unknown option 'timeout_usecs': did you mean 'timeout_usec'?" in refusal_of(refused)
    assert house.arbiter.calls == []


@pytest.mark.parametrize("member", ["Pin", "Unpin"])
async def test_pinning_what_is_not_there(client: Client, member: str) -> None:
    with pytest.raises(BusError) as refusal:
        await client.call(member, "s", "nope")
    assert refusal.value.name == "org.gpumand1.Error.NoSuchConsumer"


@pytest.mark.parametrize(("member", "signature", "body"), [("Release", "s", ()), ("Renew", "st", (0,))])
async def test_unknown_lease(client: Client, member: str, signature: str, body: tuple[int, ...]) -> None:
    with pytest.raises(BusError) as refusal:
        await client.call(member, signature, "zzz", *body)
    assert refusal.value.name == "org.gpumand1.Error.NoSuchLease"


async def test_renewing_what_has_no_ttl(client: Client) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "connection")})
    with pytest.raises(BusError, match="not a ttl lease"):
        await client.call("Renew", "st", lease, 0)


@pytest.mark.parametrize("member", ["Acquire", "Release", "Pin"])
async def test_long_names_are_refused(client: Client, house: House, member: str) -> None:
    body: tuple[object, ...] = ("x" * 1025, {}) if member == "Acquire" else ("x" * 1025,)
    with pytest.raises(BusError) as refusal:
        await client.call(member, "sa{sv}" if member == "Acquire" else "s", *body)
    assert refusal.value.name == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert house.arbiter.calls == []


async def test_lease_that_ends_with_a_unit_carries_its_invocation(client: Client, house: House) -> None:
    house.units.unit = "job.service"
    await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})
    (lease,) = house.arbiter.leases.values()
    assert lease.lifetime is LeaseLifetime.UNIT
    assert (lease.owner.unit, lease.owner.invocation_id) == ("job.service", "cafe")


async def test_unit_lease_needs_a_unit(client: Client, house: House) -> None:
    with pytest.raises(BusError) as refusal:
        await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})
    assert refusal.value.name == "org.freedesktop.DBus.Error.InvalidArgs"
    assert house.arbiter.calls == []


async def test_hung_systemd_does_not_hold_up_whoever_needs_it_not(client: Client, house: House) -> None:
    house.units.answering.clear()
    await client.call("Acquire", "sa{sv}", "ollama", {})
    # The consumer has a unit: worth a moment, once.
    await client.call("Acquire", "sa{sv}", "comfyui", {})
    await client.call("Acquire", "sa{sv}", "comfyui", {})
    assert len(house.arbiter.leases) == 3
    assert len(house.units.asked) == 1


async def test_unit_of_a_caller_is_asked_for_once(client: Client, house: House) -> None:
    house.units.unit = "comfyui.service"
    for _ in range(3):
        await client.call("Acquire", "sa{sv}", "comfyui", {})
    assert {lease.owner.unit for lease in house.arbiter.leases.values()} == {"comfyui.service"}
    assert house.units.asked == [os.getpid()]


async def test_peer_answers_on_every_path(house: House) -> None:
    for path in ("/org/gpumand1", "/", "/nowhere"):
        ping = await house.bus.busctl("call", BUS_NAME, path, PEER, "Ping")
        assert ping.returncode == 0, ping.err
    (machine_id,) = (await house.bus.busctl("call", BUS_NAME, ROOT_PATH, PEER, "GetMachineId")).json()
    assert machine_id == read_machine_id()


async def test_signals_are_seen_by_gdbus_monitor(house: House) -> None:
    where = ("monitor", "--session", "--dest", BUS_NAME, "--object-path", ROOT_PATH)
    async with house.bus.listener("gdbus", *where) as lines:
        await lines.until("is owned by")
        await house.bus.call("Evict", "sa{sv}", "ollama", "0")
        await lines.until(
            "EvictionOccurred ('ollama', '0', uint64 4000, 'http', 'manual', {'expected_mib': <uint64 4096>"
        )


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root may monitor")
async def test_order_seen_by_busctl_monitor(house: House) -> None:
    async with house.bus.listener("busctl", f"--address={house.bus.address}", "--json=short", "monitor") as lines:
        await lines.until("Monitoring bus message stream")
        await house.bus.call("Acquire", "sa{sv}", "ollama", "0")
        seen = await lines.until('"data":["a0001",{')
    messages = [json.loads(line) for line in seen if line.startswith("{")]
    members = [message.get("member") for message in messages if message["sender"] == house.connection.unique_name]
    assert members[-2:] == ["LeaseGranted", None]  # the signal, then the reply
    assert "InterfacesAdded" in members[:-2]


async def test_caller_may_be_asked_and_that_is_passed_on(bus: PolicyBus) -> None:
    asked: list[bool] = []

    class Asking(UidAuthority):
        async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
            asked.append(interactive)
            if not interactive:
                raise InteractiveAuthorizationRequired("a password is needed")

    where = (BUS_NAME, ROOT_PATH, MANAGER, "Reload")
    caller = await BusConnection.connect(bus.address)
    async with served_on(bus, Asking(0, system_bus=True)) as house:
        with pytest.raises(BusError) as refusal:
            await caller.call(*where)
        assert refusal.value.name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
        assert house.arbiter.calls == []
        await caller.call(*where, interactive=True)
    await caller.close()
    assert asked == [False, True]
