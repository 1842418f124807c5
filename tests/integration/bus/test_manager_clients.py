"""Clients of the Manager: identification, authorization, and departure from the bus."""

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
from tests.integration.bus.conftest import Client, ScriptedUnits, ServedManager
from tests.integration.bus.private_bus import OTHER_UID, PolicyBus
from tests.scripted_arbiter import ScriptedArbiter
from tests.scripted_user_names import ScriptedUserNames
from tests.waiting import until

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to call as another user")

CONNECTION = {"lifetime": Variant("s", "connection")}
ARGUMENTS = {
    "Acquire": ("sa{sv}", "ollama", "0"),
    "Release": ("s", "a0001"),
    "Renew": ("st", "a0001", "0"),
    "Cancel": ("s", "request-of-root"),
    "Load": ("sa{sv}", "ollama", "0"),
    "Evict": ("sa{sv}", "ollama", "0"),
    "Plan": ("sa{sv}", "ollama", "0"),
    "GetHistory": ("a{sv}", "0"),
    "Pin": ("s", "ollama"),
    "Unpin": ("s", "ollama"),
    "ReleaseGpu": ("a{sv}", "0"),
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
    """Run a process that acquires ollama until it exits."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, address, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def read_line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        return (await process.stdout.readline()).decode().strip()


async def test_lease_ends_when_its_owner_is_killed(served: ServedManager, client: Client) -> None:
    async with holder(served.bus.address) as process:
        name = await read_line(process)
        assert await read_line(process) == "granted"
        assert [lease.owner.bus_name for lease in served.arbiter.leases.values()] == [name]
        process.kill()
        await until(lambda: not served.arbiter.leases, "the lease is freed")
    await until(lambda: client.signal_names()[-1:] == ["/ LeaseEnded"], "LeaseEnded")
    assert client.signals[-1].body[2] == LeaseEnd.OWNER_VANISHED
    assert served.arbiter.vanished == [name]


async def test_request_ends_when_its_caller_is_killed(served: ServedManager) -> None:
    served.arbiter.gate.clear()
    async with holder(served.bus.address) as process:
        name = await read_line(process)
        await until(lambda: bool(served.arbiter.waiting), "the request waits")
        process.kill()
        await until(lambda: not served.arbiter.waiting, "the request has ended")
    served.arbiter.gate.set()
    await until(lambda: served.arbiter.vanished == [name], "the arbiter is notified")
    assert served.arbiter.leases == {}


async def test_ttl_lease_outlives_its_caller(served: ServedManager) -> None:
    await served.bus.call("Acquire", "sa{sv}", "ollama", "0")
    await until(lambda: len(served.arbiter.vanished) == 1, "busctl left")
    assert len(served.arbiter.leases) == 1


async def test_waiting_request_is_answered_after_the_grant(served: ServedManager, client: Client) -> None:
    served.arbiter.gate.clear()
    waiting = asyncio.ensure_future(client.call("Acquire", "sa{sv}", "ollama", {}))
    await until(lambda: bool(served.arbiter.waiting), "the request waits")
    (status,) = await client.call("GetStatus")
    assert isinstance(status, dict)
    assert [entry["position"] for entry in status["queue"]] == [1]
    assert not waiting.done()
    served.arbiter.gate.set()
    assert (await waiting)[0] == "a0001"


async def test_watching_a_name_that_never_existed_returns_false(served: ServedManager) -> None:
    assert await served.clients.watch(":1.99999") is False
    assert served.clients.watched == frozenset()


async def test_concurrent_watches_report_departure_once(served: ServedManager) -> None:
    other = await BusConnection.connect(served.bus.address)
    present = await asyncio.gather(*(served.clients.watch(other.unique_name) for _ in range(5)))
    assert present == [True] * 5
    assert served.clients.watched == {other.unique_name}
    await other.close()
    await until(lambda: served.arbiter.vanished == [other.unique_name], "the departure is reported once")
    assert served.clients.watched == frozenset()


async def test_departure_before_listen_is_reported_later(served: ServedManager) -> None:
    early = Clients(served.connection, served.units, frozenset({0}))
    other = await BusConnection.connect(served.bus.address)
    assert await early.watch(other.unique_name)
    await other.close()
    await until(lambda: not early.watched, "the client has left")
    vanished: list[str] = []

    async def listen(name: str) -> None:
        vanished.append(name)

    early.listen(listen)
    await until(lambda: vanished == [other.unique_name], "the departure is reported")
    await early.close()


async def test_idle_clients_are_forgotten_before_lease_owners(
    served: ServedManager, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_IDLE_WATCHES", 3)
    await client.call("Acquire", "sa{sv}", "ollama", CONNECTION)
    others = [await BusConnection.connect(served.bus.address) for _ in range(6)]
    for other in others:
        assert await served.clients.watch(other.unique_name)
    assert served.clients.watched == {client.connection.unique_name, *(other.unique_name for other in others[3:])}
    for other in others:
        await other.close()
    await until(lambda: len(served.arbiter.vanished) == 3, "the departures of remembered clients are reported")


async def test_more_lease_owners_than_match_rules_are_all_watched(
    served: ServedManager, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_presence, "MAX_NAME_MATCHES", 2)
    clients = [Client(await BusConnection.connect(served.bus.address)) for _ in range(6)]
    for one in clients:
        await one.call("Acquire", "sa{sv}", "ollama", CONNECTION)
    assert len(served.arbiter.leases) == 6
    for one in clients:
        await one.connection.close()
    await until(lambda: not served.arbiter.leases, "every lease is freed")
    assert sorted(served.arbiter.vanished) == sorted(one.connection.unique_name for one in clients)
    # The unfiltered rule was removed with its last user, so the next client has its own rule again.
    assert served.clients.watched == frozenset()
    await client.call("Acquire", "sa{sv}", "ollama", CONNECTION)
    await client.connection.close()
    await until(lambda: not served.arbiter.leases, "the last lease is freed")


async def test_lease_owners_are_not_forgotten_before_the_leases_are_known(
    bus: PolicyBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart every owner of a kept lease is watched before the objects are exported."""
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
    service = ManagerService(connection, arbiter, clients, UidAuthority(0, ScriptedUserNames()))
    arbiter.publish = service.publish
    service.export()
    assert await clients.watch(owners[3].unique_name)
    assert clients.watched == {owners[number].unique_name for number in (0, 1, 3)}
    for owner in owners:
        await owner.close()
    await until(lambda: not arbiter.leases, "the kept leases are freed")
    await service.close()
    await connection.close()


async def test_loss_of_the_bus_does_not_disturb_the_arbiter(served: ServedManager, client: Client) -> None:
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    await served.connection.close()
    served.arbiter.end(lease, LeaseEnd.SHUTDOWN)
    served.service.publish(SummaryChanged())
    turned = asyncio.Event()
    asyncio.get_running_loop().call_soon(turned.set)
    await turned.wait()  # the announcement at the end of the loop's iteration fails silently
    assert served.arbiter.leases == {}


@needs_root
async def test_caller_is_refused_if_its_unit_is_not_known_in_time(
    served: ServedManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "UNIT_TIMEOUT_SEC", 0.05)
    served.units.unit = "comfyui.service"
    served.units.answering.clear()
    denied = await served.bus.call("Acquire", "sa{sv}", "comfyui", "0", uid=OTHER_UID)
    assert "Access denied" in denied.err
    assert served.arbiter.calls == []


@pytest.mark.parametrize(("hangs", "unit"), [(False, "job.service"), (True, "")])
async def test_reservation_waits_a_moment_for_the_unit_of_its_holder(
    served: ServedManager, client: Client, monkeypatch: pytest.MonkeyPatch, hangs: bool, unit: str
) -> None:
    monkeypatch.setattr(registry, "GRACE_SEC", 0.05 if hangs else 30.0)
    served.units.unit = "job.service"
    served.units.answering.clear()
    call = asyncio.create_task(client.call("Acquire", "sa{sv}", "", {"vram_mib": Variant("t", 12000)}))
    await until(lambda: served.units.asked != [], "systemd is asked")
    if not hangs:
        served.units.answering.set()
    await until(lambda: served.arbiter.calls != [], "the arbiter is called")
    _, owner, *_ = served.arbiter.calls[0]
    assert isinstance(owner, Owner)
    assert owner.unit == unit
    with pytest.raises(BusError, match="no consumer"):
        await call


async def test_unit_lease_fails_when_systemd_hangs(
    served: ServedManager, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "UNIT_TIMEOUT_SEC", 0.05)
    served.units.answering.clear()
    with pytest.raises(BusError, match="systemd did not report the caller's unit within") as refusal:
        await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})
    assert refusal.value.name == "org.gpumand1.Error.Failed"


async def test_unit_lease_of_a_stopping_unit_is_refused(served: ServedManager, client: Client) -> None:
    served.units.unit, served.units.activity = "job.service", UnitActivity.DEACTIVATING
    with pytest.raises(BusError, match=r"needs a running unit: job\.service is deactivating"):
        await client.call("Acquire", "sa{sv}", "ollama", {"lifetime": Variant("s", "unit")})


@needs_root
@pytest.mark.parametrize("member", [member for (name, member) in ACTIONS if name == MANAGER])
async def test_other_users_may_only_read(served: ServedManager, client: Client, member: str) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    served.arbiter.waiting.append(Owner("root", 0))
    calls, leases = list(served.arbiter.calls), dict(served.arbiter.leases)
    answer = await served.bus.call(member, *ARGUMENTS.get(member, ()), uid=OTHER_UID)
    if ACTIONS[MANAGER, member] is None:
        assert answer.returncode == 0, answer.err
        return
    assert answer.err == "Call failed: Access denied\n"
    assert served.arbiter.calls == calls
    assert served.arbiter.leases == leases


@needs_root
async def test_other_users_may_introspect_everything(served: ServedManager) -> None:
    for command in (["tree"], ["introspect", "/org/gpumand1"], ["get-property", "/org/gpumand1", MANAGER, "Version"]):
        answer = await served.bus.busctl(command[0], BUS_NAME, *command[1:], uid=OTHER_UID)
        assert answer.returncode == 0, answer.err


@needs_root
async def test_consumers_own_unit_may_acquire_and_release(served: ServedManager) -> None:
    served.units.unit = "comfyui.service"
    lease, _ = (await served.bus.call("Acquire", "sa{sv}", "comfyui", "0", uid=OTHER_UID)).json()
    assert served.arbiter.leases[lease].owner.uid == OTHER_UID
    denied = await served.bus.call("Acquire", "sa{sv}", "ollama", "0", uid=OTHER_UID)
    assert "Access denied" in denied.err
    assert (await served.bus.call("Release", "s", lease, uid=OTHER_UID)).returncode == 0
    assert served.arbiter.calls[-1] == ("release", lease, LeaseEnd.RELEASED)


@needs_root
async def test_refusal_names_the_caller_and_the_allowed_users(served: ServedManager) -> None:
    where = ("--session", "--dest", BUS_NAME, "--object-path", "/org/gpumand1", "--method", f"{MANAGER}.Acquire")
    answer = await served.bus.gdbus("call", *where, "comfyui", "{}", uid=OTHER_UID)
    assert "AccessDenied" in answer.err
    assert f"uid {OTHER_UID} may not acquire comfyui. Run the command as root." in answer.err


@needs_root
async def test_lease_released_by_root_ends_as_revoked(served: ServedManager, client: Client) -> None:
    served.units.unit = "comfyui.service"
    lease, _ = (await served.bus.call("Acquire", "sa{sv}", "comfyui", "0", uid=OTHER_UID)).json()
    await client.call("Release", "s", lease)
    assert served.arbiter.calls[-1] == ("release", lease, LeaseEnd.REVOKED)


@needs_root
async def test_other_users_cannot_own_the_name(served: ServedManager) -> None:
    await served.connection.call("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "ReleaseName", "s", (BUS_NAME,))
    where = ("org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", BUS_NAME, "0")
    refused = await served.bus.busctl("call", *where, uid=OTHER_UID)
    assert "Access denied" in refused.err
