"""Every method of the Manager, called with busctl, gdbus and BusConnection."""

from __future__ import annotations

import json
import os
from dataclasses import replace

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
from tests.integration.bus.conftest import Client, ServedManager, serve_manager
from tests.integration.bus.private_bus import CommandResult, PolicyBus
from tests.scripted_arbiter import DEFAULT_TTL_SEC, GRANTED_USEC
from tests.scripted_user_names import ScriptedUserNames


def error_line(finished: CommandResult) -> str:
    assert finished.returncode == 1
    assert finished.out == ""
    return finished.err.strip()


async def test_acquire_renew_and_release_with_busctl(served: ServedManager) -> None:
    lease, grant = (await served.bus.call("Acquire", "sa{sv}", "ollama", "0")).json()
    assert grant == {
        "consumer": "ollama",
        "device": "0",
        "waited_usec": 7,
        "evicted": ["comfyui"],
        "loaded": True,
        "expires_usec": GRANTED_USEC + int(DEFAULT_TTL_SEC * 1e6),
        "endpoint": "http://127.0.0.1:1/",
    }
    assert (await served.bus.call("Renew", "st", lease, "0")).json() == [GRANTED_USEC + int(DEFAULT_TTL_SEC * 1e6) + 1]
    assert (await served.bus.call("Renew", "st", lease, "5000000")).json() == [GRANTED_USEC + 5_000_001]
    assert (await served.bus.call("Release", "s", lease)).returncode == 0
    assert served.arbiter.leases == {}
    assert served.arbiter.calls[1:] == [
        ("renew", lease, None),
        ("renew", lease, 5.0),
        ("release", lease, LeaseEnd.RELEASED),
    ]


async def test_acquire_with_options_by_gdbus(served: ServedManager) -> None:
    options = "{'lifetime': <'ttl'>, 'ttl_usec': <60000000>, 'priority': <uint32 7>, 'reason': <'nightly'>}"
    where = ("--session", "--dest", "org.gpumand1", "--object-path", "/org/gpumand1")
    answer = await served.bus.gdbus("call", *where, "--method", "org.gpumand1.Manager.Acquire", "ollama", options)
    assert answer.out.startswith("('a0001', {'consumer': <'ollama'>"), answer.err
    _, owner, consumer, given = served.arbiter.calls[0]
    assert consumer == "ollama"
    assert given == AcquireOptions(ttl_sec=60.0, priority=7, reason="nightly")
    assert isinstance(owner, Owner)
    assert owner.uid == os.getuid()
    assert owner.pid > 0
    assert owner.bus_name.startswith(":1.")


async def test_status_contains_all_parts(served: ServedManager) -> None:
    await served.bus.call("Acquire", "sa{sv}", "ollama", "1", "reason", "s", "a test")
    (status,) = (await served.bus.call("GetStatus")).json()
    assert status["version"] == "1.2.3"
    assert [consumer["name"] for consumer in status["consumers"]] == ["ollama", "comfyui", "über/geek"]
    assert status["devices"][0]["free_mib"] == 16564
    (lease,) = status["leases"]
    assert (lease["consumer"], lease["owner_uid"], lease["reason"]) == ("ollama", os.getuid(), "a test")
    assert status["queue"] == []
    assert status["stats"]["unload_usec"] == 8


async def test_plan_with_busctl(served: ServedManager) -> None:
    (plan,) = (await served.bus.call("Plan", "sa{sv}", "ollama", "1", "device", "s", "0")).json()
    assert plan["verdict"] == "grant"
    assert plan["need_mib"] == 4352
    assert "free_mib" not in plan
    victim = {"consumer": "comfyui", "method": "http", "why": "least recently used", "parks": False}
    assert plan["evictions"] == [victim]
    assert plan["spared"] == [{"consumer": "ollama", "why": "pinned"}]


async def test_load_evict_pin_unpin_and_reload(served: ServedManager) -> None:
    (loaded,) = (
        await served.bus.call("Load", "sa{sv}", "ollama", "2", "device", "s", "0", "timeout_usec", "i", "0")
    ).json()
    (evicted,) = (await served.bus.call("Evict", "sa{sv}", "ollama", "1", "force", "b", "true")).json()
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
        assert (await served.bus.call(member, "s", "ollama")).returncode == 0
    assert (await served.bus.call("Reload")).returncode == 0
    assert served.arbiter.calls == [
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
async def test_errors_keep_name_and_message(client: Client, served: ServedManager, error: GpumandError) -> None:
    served.arbiter.errors["acquire"] = error
    with pytest.raises(BusError) as refusal:
        await client.call("Acquire", "sa{sv}", "ollama", {})
    assert (refusal.value.name, refusal.value.message) == (error.dbus_name, error.message)


async def test_refused_reload_names_file_line_and_key(served: ServedManager) -> None:
    served.arbiter.errors["reload"] = ConfigInvalid("/etc/gpumand/gpumand.toml:3: unknown key 'foo'")
    refused = error_line(await served.bus.call("Reload"))
    assert refused == "Call failed: ConfigInvalid: /etc/gpumand/gpumand.toml:3: unknown key 'foo'"


@pytest.mark.parametrize("kind", [TimedOut, InsufficientVram, EvictionFailed, LoadFailed, ConsumerBackingOff])
async def test_busctl_shows_the_name_of_an_error_before_its_text(
    served: ServedManager, kind: type[GpumandError]
) -> None:
    served.arbiter.errors["acquire"] = kind("what happened")
    refused = error_line(await served.bus.call("Acquire", "sa{sv}", "ollama", "0"))
    assert refused == f"Call failed: {kind.__name__}: what happened"


@pytest.mark.parametrize("member", ["Acquire", "Plan", "Load", "Evict"])
async def test_unknown_consumer_and_unknown_option_are_named(served: ServedManager, member: str) -> None:
    assert "no consumer 'nope'" in error_line(await served.bus.call(member, "sa{sv}", "nope", "0"))
    refused = await served.bus.call(member, "sa{sv}", "ollama", "1", "timeout_usecs", "t", "1")
    assert "unknown option 'timeout_usecs': did you mean 'timeout_usec'?" in error_line(refused)
    assert served.arbiter.calls == []


@pytest.mark.parametrize("member", ["Pin", "Unpin"])
async def test_pinning_unknown_consumer_fails(client: Client, member: str) -> None:
    with pytest.raises(BusError) as refusal:
        await client.call(member, "s", "nope")
    assert refusal.value.name == "org.gpumand1.Error.NoSuchConsumer"


@pytest.mark.parametrize(("member", "signature", "body"), [("Release", "s", ()), ("Renew", "st", (0,))])
async def test_unknown_lease_is_refused(client: Client, member: str, signature: str, body: tuple[int, ...]) -> None:
    with pytest.raises(BusError) as refusal:
        await client.call(member, signature, "zzz", *body)
    assert refusal.value.name == "org.gpumand1.Error.NoSuchLease"


async def test_request_is_cancelled_by_its_user_and_unknown_ones_are_refused(
    client: Client, served: ServedManager
) -> None:
    served.arbiter.waiting.append(Owner("test", os.getuid()))
    await client.call("Cancel", "s", "request-of-test")
    assert served.arbiter.calls == [("cancel", "request-of-test", os.getuid())]
    with pytest.raises(BusError) as refusal:
        await client.call("Cancel", "s", "zzz")
    assert refusal.value.name == "org.gpumand1.Error.NoSuchRequest"


async def test_renewing_lease_without_ttl_fails(client: Client) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "connection")})
    with pytest.raises(BusError, match="not a ttl lease"):
        await client.call("Renew", "st", lease, 0)


@pytest.mark.parametrize("member", ["Acquire", "Release", "Pin"])
async def test_long_names_are_refused(client: Client, served: ServedManager, member: str) -> None:
    body: tuple[object, ...] = ("x" * 1025, {}) if member == "Acquire" else ("x" * 1025,)
    with pytest.raises(BusError) as refusal:
        await client.call(member, "sa{sv}" if member == "Acquire" else "s", *body)
    assert refusal.value.name == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert served.arbiter.calls == []


async def test_unit_lease_records_the_units_invocation(client: Client, served: ServedManager) -> None:
    served.units.unit = "job.service"
    await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})
    (lease,) = served.arbiter.leases.values()
    assert lease.lifetime is LeaseLifetime.UNIT
    assert (lease.owner.unit, lease.owner.invocation_id) == ("job.service", "cafe")


async def test_unit_lease_requires_a_caller_with_unit(client: Client, served: ServedManager) -> None:
    with pytest.raises(BusError) as refusal:
        await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})
    assert refusal.value.name == "org.freedesktop.DBus.Error.InvalidArgs"
    assert served.arbiter.calls == []


async def test_hanging_systemd_does_not_block_callers_that_need_no_unit(client: Client, served: ServedManager) -> None:
    served.units.answering.clear()
    await client.call("Acquire", "sa{sv}", "ollama", {})
    # The consumer has a unit, so the lookup of the caller's unit is awaited briefly, once.
    await client.call("Acquire", "sa{sv}", "comfyui", {})
    await client.call("Acquire", "sa{sv}", "comfyui", {})
    assert len(served.arbiter.leases) == 3
    assert len(served.units.asked) == 1


async def test_unit_of_a_caller_is_looked_up_once(client: Client, served: ServedManager) -> None:
    served.units.unit = "comfyui.service"
    for _ in range(3):
        await client.call("Acquire", "sa{sv}", "comfyui", {})
    assert {lease.owner.unit for lease in served.arbiter.leases.values()} == {"comfyui.service"}
    assert served.units.asked == [os.getpid()]


async def test_peer_answers_on_every_path(served: ServedManager) -> None:
    for path in ("/org/gpumand1", "/", "/nowhere"):
        ping = await served.bus.busctl("call", BUS_NAME, path, PEER, "Ping")
        assert ping.returncode == 0, ping.err
    (machine_id,) = (await served.bus.busctl("call", BUS_NAME, ROOT_PATH, PEER, "GetMachineId")).json()
    assert machine_id == read_machine_id()


async def test_gdbus_monitor_shows_signals(served: ServedManager) -> None:
    where = ("monitor", "--session", "--dest", BUS_NAME, "--object-path", ROOT_PATH)
    async with served.bus.listener("gdbus", *where) as lines:
        await lines.until("is owned by")
        await served.bus.call("Evict", "sa{sv}", "ollama", "0")
        await lines.until(
            "EvictionOccurred ('ollama', '0', uint64 4000, 'http', 'manual', {'expected_mib': <uint64 4096>"
        )


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: only root may monitor")
async def test_signal_precedes_reply_in_busctl_monitor(served: ServedManager) -> None:
    async with served.bus.listener("busctl", f"--address={served.bus.address}", "--json=short", "monitor") as lines:
        await lines.until("Monitoring bus message stream")
        await served.bus.call("Acquire", "sa{sv}", "ollama", "0")
        seen = await lines.until('"data":["a0001",{')
    messages = [json.loads(line) for line in seen if line.startswith("{")]
    members = [message.get("member") for message in messages if message["sender"] == served.connection.unique_name]
    assert members[-2:] == ["LeaseGranted", None]  # the signal, then the reply
    assert "InterfacesAdded" in members[:-2]


async def test_authority_gets_the_user_for_which_a_service_acts(bus: PolicyBus) -> None:
    checked: list[str] = []

    class PolkitCheck(UidAuthority):
        async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
            checked.append(details.polkit_details().get("on_behalf", ""))

    caller = await BusConnection.connect(bus.address)
    async with serve_manager(bus, PolkitCheck(0, ScriptedUserNames())):
        for member in ("Acquire", "Load"):
            options = {"on_behalf": Variant("s", "alice@gpu2")}
            await caller.call(BUS_NAME, ROOT_PATH, MANAGER, member, "sa{sv}", ("ollama", options))
            await caller.call(BUS_NAME, ROOT_PATH, MANAGER, member, "sa{sv}", ("ollama", {}))
    await caller.close()
    assert checked == ["alice@gpu2", "", "alice@gpu2", ""]


async def test_authority_gets_whether_an_eviction_is_forced_and_whether_the_consumer_is_unique(
    bus: PolicyBus,
) -> None:
    checked: list[tuple[str, str]] = []

    class PolkitCheck(UidAuthority):
        async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
            given = details.polkit_details()
            checked.append((given.get("force", ""), given.get("fleet", "")))

    caller = await BusConnection.connect(bus.address)
    async with serve_manager(bus, PolkitCheck(0, ScriptedUserNames())) as served:
        found = served.arbiter.consumers
        found["ollama"] = replace(found["ollama"], fleet="unique")
        for member, options in (
            ("Evict", {"force": Variant("b", True)}),
            ("Evict", {"force": Variant("b", False)}),
            ("Acquire", {}),
            ("Load", {}),
        ):
            await caller.call(BUS_NAME, ROOT_PATH, MANAGER, member, "sa{sv}", ("ollama", options))
        await caller.call(BUS_NAME, ROOT_PATH, MANAGER, "Evict", "sa{sv}", ("comfyui", {}))
    await caller.close()
    assert checked == [("true", "unique"), ("", "unique"), ("", "unique"), ("", "unique"), ("", "")]


async def test_interactive_flag_reaches_the_authority(bus: PolicyBus) -> None:
    asked: list[bool] = []

    class PolkitCheck(UidAuthority):
        async def check(self, caller: Owner, action: Action, details: Details, interactive: bool) -> None:
            asked.append(interactive)
            if not interactive:
                raise InteractiveAuthorizationRequired("a password is needed")

    where = (BUS_NAME, ROOT_PATH, MANAGER, "Reload")
    caller = await BusConnection.connect(bus.address)
    async with serve_manager(bus, PolkitCheck(0, ScriptedUserNames())) as served:
        with pytest.raises(BusError) as refusal:
            await caller.call(*where)
        assert refusal.value.name == "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
        assert served.arbiter.calls == []
        await caller.call(*where, interactive=True)
    await caller.close()
    assert asked == [False, True]
