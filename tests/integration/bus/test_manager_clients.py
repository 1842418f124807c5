"""Who calls, whether it may, and what happens when it leaves."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from dbus_fast import Variant

from gpumand.bus import client_presence
from gpumand.bus import clients as registry
from gpumand.bus.authorization import ACTIONS, UidAuthority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection, BusError
from gpumand.bus.names import BUS_NAME, MANAGER
from gpumand.bus.service import ManagerService
from gpumand.domain.consumer import UnitActivity
from gpumand.domain.events import SummaryChanged
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from tests.integration.bus.conftest import Client, House, ScriptedUnits
from tests.integration.bus.private_bus import NOBODY, PolicyBus, until
from tests.scripted_arbiter import ScriptedArbiter

as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to call as somebody else")

CONNECTION = {"lifetime": Variant("s", "connection")}
ARGUMENTS = {
    "Acquire": ("sa{sv}", "ollama", "0"),
    "Release": ("s", "a0001"),
    "Renew": ("st", "a0001", "0"),
    "Load": ("sa{sv}", "ollama", "0"),
    "Evict": ("sa{sv}", "ollama", "0"),
    "Plan": ("sa{sv}", "ollama", "0"),
    "GetHistory": ("a{sv}", "0"),
    "Pin": ("s", "ollama"),
    "Unpin": ("s", "ollama"),
}

HOLDER = """
import asyncio, sys
from dbus_fast import Variant
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection

async def main():
    connection = await BusConnection.connect(sys.argv[1])
    call = connection.call(
        "org.gpumand1", "/org/gpumand1", "org.gpumand1.Manager", "Acquire", "sa{sv}",
        ("ollama", {"lifetime": Variant("s", "connection")}),
    )
    print(connection.unique_name, flush=True)
    await call
    print("granted", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def holder(address: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of its own that acquires ollama for as long as it is there."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, address, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(10):
        return (await process.stdout.readline()).decode().strip()


async def test_killed_owner_frees_its_lease(house: House, client: Client) -> None:
    async with holder(house.bus.address) as process:
        name = await line_of(process)
        assert await line_of(process) == "granted"
        assert [lease.owner.bus_name for lease in house.arbiter.leases.values()] == [name]
        process.kill()
        await until(lambda: not house.arbiter.leases, "the lease is freed")
    await until(lambda: client.story()[-1] == "/ LeaseEnded", "LeaseEnded")
    assert client.heard[-1].body[2] == LeaseEnd.OWNER_VANISHED
    assert house.arbiter.vanished == [name]


async def test_killed_waiter_stops_waiting(house: House) -> None:
    house.arbiter.gate.clear()
    async with holder(house.bus.address) as process:
        name = await line_of(process)
        await until(lambda: bool(house.arbiter.waiting), "it waits")
        process.kill()
        await until(lambda: not house.arbiter.waiting, "it waits no longer")
    house.arbiter.gate.set()
    await until(lambda: house.arbiter.vanished == [name], "the arbiter is told")
    assert house.arbiter.leases == {}


async def test_ttl_lease_outlives_its_caller(house: House) -> None:
    await house.bus.call("Acquire", "sa{sv}", "ollama", "0")
    await until(lambda: len(house.arbiter.vanished) == 1, "busctl left")
    assert len(house.arbiter.leases) == 1


async def test_waiting_caller_is_not_answered_before_its_time(house: House, client: Client) -> None:
    house.arbiter.gate.clear()
    waiting = asyncio.ensure_future(client.call("Acquire", "sa{sv}", "ollama", {}))
    await until(lambda: bool(house.arbiter.waiting), "it waits")
    (status,) = await client.call("GetStatus")
    assert isinstance(status, dict)
    assert [entry["position"] for entry in status["queue"]] == [1]
    assert not waiting.done()
    house.arbiter.gate.set()
    assert (await waiting)[0] == "a0001"


async def test_watch_of_a_name_that_never_was(house: House) -> None:
    assert await house.clients.watch(":1.99999") is False
    assert house.clients.watched == frozenset()


async def test_watch_is_armed_once_and_says_when_a_name_goes(house: House) -> None:
    other = await BusConnection.connect(house.bus.address)
    present = await asyncio.gather(*(house.clients.watch(other.unique_name) for _ in range(5)))
    assert present == [True] * 5
    assert house.clients.watched == {other.unique_name}
    await other.close()
    await until(lambda: house.arbiter.vanished == [other.unique_name], "it is told once")
    assert house.clients.watched == frozenset()


async def test_name_that_left_before_anybody_listened_is_told_later(house: House) -> None:
    early = Clients(house.connection, house.units, frozenset({0}))
    other = await BusConnection.connect(house.bus.address)
    assert await early.watch(other.unique_name)
    await other.close()
    await until(lambda: not early.watched, "it left")
    told: list[str] = []

    async def listen(name: str) -> None:
        told.append(name)

    early.listen(listen)
    await until(lambda: told == [other.unique_name], "it is told")
    await early.close()


async def test_idle_callers_are_forgotten_before_holders(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_IDLE_WATCHES", 3)
    await client.call("Acquire", "sa{sv}", "ollama", CONNECTION)
    others = [await BusConnection.connect(house.bus.address) for _ in range(6)]
    for other in others:
        assert await house.clients.watch(other.unique_name)
    assert house.clients.watched == {client.connection.unique_name, *(other.unique_name for other in others[3:])}
    for other in others:
        await other.close()
    await until(lambda: len(house.arbiter.vanished) == 3, "the remembered ones are told")


async def test_more_holders_than_match_rules_are_all_watched(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_NAME_MATCHES", 2)
    clients = [Client(await BusConnection.connect(house.bus.address)) for _ in range(6)]
    for one in clients:
        await one.call("Acquire", "sa{sv}", "ollama", CONNECTION)
    assert len(house.arbiter.leases) == 6
    for one in clients:
        await one.connection.close()
    await until(lambda: not house.arbiter.leases, "every lease is freed")
    assert sorted(house.arbiter.vanished) == sorted(one.connection.unique_name for one in clients)
    # The rule for everybody went with the last that needed it: the next one has its own again.
    assert house.clients.watched == frozenset()
    await client.call("Acquire", "sa{sv}", "ollama", CONNECTION)
    await client.connection.close()
    await until(lambda: not house.arbiter.leases, "the last lease is freed")


async def test_no_owner_is_forgotten_before_the_leases_are_known(
    bus: PolicyBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart every owner of a kept lease is watched before anything is exported."""
    monkeypatch.setattr(client_presence, "MAX_IDLE_WATCHES", 1)
    connection, units = await BusConnection.connect(bus.address), ScriptedUnits()
    clients = Clients(connection, units, frozenset({0}))
    owners = [await BusConnection.connect(bus.address) for _ in range(4)]
    for owner in owners:
        assert await clients.watch(owner.unique_name)
    assert clients.watched == {owner.unique_name for owner in owners}
    arbiter = ScriptedArbiter()
    for number, owner in enumerate(owners[:2]):
        kept = Owner(owner.unique_name, 0)
        arbiter.leases[f"b{number}"] = Lease(f"b{number}", "ollama", "0", kept, LeaseLifetime.CONNECTION, 1)
    service = ManagerService(connection, arbiter, clients, UidAuthority(0, system_bus=True))
    arbiter.publish = service.publish
    service.export()
    assert await clients.watch(owners[3].unique_name)
    assert clients.watched == {owners[number].unique_name for number in (0, 1, 3)}
    for owner in owners:
        await owner.close()
    await until(lambda: not arbiter.leases, "the kept leases are freed")
    await service.close()
    await connection.close()


async def test_loss_of_the_bus_does_not_reach_the_arbiter(house: House, client: Client) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    await house.connection.close()
    house.arbiter.end(lease, LeaseEnd.SHUTDOWN)
    house.service.publish(SummaryChanged())
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()  # the announcement at the end of the turn fails, quietly
    assert house.arbiter.leases == {}


@as_root
async def test_unit_that_systemd_does_not_name_in_time_opens_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "UNIT_TIMEOUT_SEC", 0.05)
    house.units.unit = "comfyui.service"
    house.units.answering.clear()
    denied = await house.bus.call("Acquire", "sa{sv}", "comfyui", "0", uid=NOBODY)
    assert "Access denied" in denied.err
    assert house.arbiter.calls == []


async def test_unit_lease_fails_by_name_when_systemd_hangs(
    house: House, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "UNIT_TIMEOUT_SEC", 0.05)
    house.units.answering.clear()
    with pytest.raises(BusError, match="systemd did not say within") as refusal:
        await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})
    assert refusal.value.name == "org.gpumand1.Error.Failed"


async def test_unit_lease_of_a_stopping_unit_is_refused(house: House, client: Client) -> None:
    house.units.unit, house.units.activity = "job.service", UnitActivity.DEACTIVATING
    with pytest.raises(BusError, match=r"needs a running unit, and job\.service is deactivating"):
        await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})


@as_root
@pytest.mark.parametrize("member", [member for (name, member) in ACTIONS if name == MANAGER])
async def test_somebody_else_may_read_and_nothing_more(house: House, client: Client, member: str) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    calls, leases = list(house.arbiter.calls), dict(house.arbiter.leases)
    answer = await house.bus.call(member, *ARGUMENTS.get(member, ()), uid=NOBODY)
    if ACTIONS[MANAGER, member] is None:
        assert answer.returncode == 0, answer.err
        return
    assert answer.err == "Call failed: Access denied\n"
    assert house.arbiter.calls == calls
    assert house.arbiter.leases == leases


@as_root
async def test_somebody_else_may_look_at_everything(house: House) -> None:
    for command in (["tree"], ["introspect", "/org/gpumand1"], ["get-property", "/org/gpumand1", MANAGER, "Version"]):
        answer = await house.bus.busctl(command[0], BUS_NAME, *command[1:], uid=NOBODY)
        assert answer.returncode == 0, answer.err


@as_root
async def test_unit_of_the_consumer_may_acquire_and_release(house: House) -> None:
    house.units.unit = "comfyui.service"
    lease, _ = (await house.bus.call("Acquire", "sa{sv}", "comfyui", "0", uid=NOBODY)).json()
    assert house.arbiter.leases[lease].owner.uid == NOBODY
    denied = await house.bus.call("Acquire", "sa{sv}", "ollama", "0", uid=NOBODY)
    assert "Access denied" in denied.err
    assert (await house.bus.call("Release", "s", lease, uid=NOBODY)).returncode == 0
    assert house.arbiter.calls[-1] == ("release", lease, LeaseEnd.RELEASED)


@as_root
async def test_refused_caller_is_told_who_may(house: House) -> None:
    where = ("--session", "--dest", BUS_NAME, "--object-path", "/org/gpumand1", "--method", f"{MANAGER}.Acquire")
    answer = await house.bus.gdbus("call", *where, "comfyui", "{}", uid=NOBODY)
    assert "AccessDenied" in answer.err
    assert f"uid {NOBODY} may not acquire comfyui; root and the unit comfyui.service may" in answer.err


@as_root
async def test_lease_taken_by_root_ends_as_revoked(house: House, client: Client) -> None:
    house.units.unit = "comfyui.service"
    lease, _ = (await house.bus.call("Acquire", "sa{sv}", "comfyui", "0", uid=NOBODY)).json()
    await client.call("Release", "s", lease)
    assert house.arbiter.calls[-1] == ("release", lease, LeaseEnd.REVOKED)


@as_root
async def test_nobody_else_can_own_the_name(house: House) -> None:
    await house.connection.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReleaseName", "s", (BUS_NAME,))
    where = ("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", BUS_NAME, "0")
    refused = await house.bus.busctl("call", *where, uid=NOBODY)
    assert "Access denied" in refused.err
