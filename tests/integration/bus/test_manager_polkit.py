"""The Manager with python-dbusmock's polkitd behind it, and somebody who is not root in front of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from gpumand.bus.authorization import ACTIONS
from gpumand.bus.connection import BusConnection
from gpumand.bus.names import MANAGER
from gpumand.bus.polkit import PolkitAuthority
from tests.integration.bus.conftest import Client, House, served_on
from tests.integration.bus.polkit_on_bus import POLICY, MockPolkit, mock_polkit, needs_dbusmock
from tests.integration.bus.private_bus import NOBODY, Finished, PolicyBus, policy_bus, until
from tests.integration.bus.test_manager_clients import ARGUMENTS

pytestmark = [needs_dbusmock, pytest.mark.skipif(os.getuid() != 0, reason="needs root, to call as somebody else")]

GUARDED = [(member, action) for (name, member), action in ACTIONS.items() if name == MANAGER and action is not None]


@pytest.fixture
async def bus() -> AsyncIterator[PolicyBus]:
    async with policy_bus(POLICY) as running:
        yield running


@pytest.fixture
async def house(bus: PolicyBus) -> AsyncIterator[House]:
    connection = await BusConnection.connect(bus.address)
    async with served_on(bus, PolkitAuthority(connection)) as served:
        yield served
    await connection.close()


@pytest.fixture
async def polkit(bus: PolicyBus) -> AsyncIterator[MockPolkit]:
    async with mock_polkit(bus.address) as running:
        yield running


async def call(house: House, member: str) -> Finished:
    """Somebody else's call."""
    return await house.bus.call(member, *ARGUMENTS.get(member, ()), uid=NOBODY)


@pytest.mark.parametrize(("member", "action"), GUARDED)
async def test_whom_polkit_allows_may_and_nobody_else(
    house: House, client: Client, polkit: MockPolkit, member: str, action: str
) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    others = sorted({str(other) for _, other in GUARDED} - {action})
    await polkit.tell("SetAllowed", "as", others)
    before, leases = list(house.arbiter.calls), dict(house.arbiter.leases)
    assert (await call(house, member)).err == "Call failed: Access denied\n"
    assert (house.arbiter.calls, house.arbiter.leases) == (before, leases)
    await polkit.tell("SetAllowed", "as", [action])
    allowed = await call(house, member)
    assert allowed.returncode == 0, allowed.err
    assert len(house.arbiter.calls) == len(before) + 1


async def test_polkit_that_hangs_delays_only_its_caller(house: House, client: Client, polkit: MockPolkit) -> None:
    await polkit.tell("AllowUnknown", "b", True)
    await polkit.tell("SimulateHang", "b", True)
    waiting = asyncio.ensure_future(call(house, "Acquire"))
    await polkit.wait_for_question()
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    await client.call("Release", "s", lease)
    assert (await house.bus.call("GetStatus", uid=NOBODY)).returncode == 0
    assert not waiting.done()
    await polkit.tell("ReleaseHangingCalls")
    assert (await waiting).returncode == 0
    assert len(house.arbiter.leases) == 1


async def test_caller_that_leaves_while_polkit_is_asked_gets_nothing(house: House, polkit: MockPolkit) -> None:
    await polkit.tell("AllowUnknown", "b", True)
    await polkit.tell("SimulateHang", "b", True)
    where = ("org.gpumand1", "/org/gpumand1", MANAGER, "Acquire", *ARGUMENTS["Acquire"])
    impatient = await asyncio.create_subprocess_exec(
        *("busctl", f"--address={house.bus.address}", "call", *where), user=NOBODY, group=NOBODY, extra_groups=[]
    )
    await polkit.wait_for_question()
    impatient.kill()
    await impatient.wait()
    await until(lambda: not house.connection._calls._waiting, "its call is over")
    await polkit.tell("ReleaseHangingCalls")
    await polkit.tell("SimulateHang", "b", False)
    assert (await call(house, "Acquire")).returncode == 0
    assert [lease.id for lease in house.arbiter.leases.values()] == ["a0001"]


async def test_polkit_that_dies_while_it_is_asked_allows_nothing(
    house: House, client: Client, polkit: MockPolkit
) -> None:
    await polkit.tell("AllowUnknown", "b", True)
    await polkit.tell("SimulateHang", "b", True)
    waiting = asyncio.ensure_future(call(house, "Evict"))
    await polkit.wait_for_question()
    await polkit.kill()
    assert (await waiting).err == "Call failed: Access denied\n"
    assert house.arbiter.calls == []
    await client.call("Evict", "sa{sv}", "ollama", {})
