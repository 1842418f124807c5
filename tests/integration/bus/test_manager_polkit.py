"""The Manager with the polkitd of python-dbusmock, called by a user other than root."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from gpumand.bus.authorization import ACTIONS
from gpumand.bus.connection import BusConnection
from gpumand.bus.names import MANAGER
from gpumand.bus.polkit import PolkitAuthority
from gpumand.domain.lease import Owner
from tests.integration.bus.conftest import Client, ServedManager, serve_manager
from tests.integration.bus.polkit_on_bus import POLICY, MockPolkit, mock_polkit, needs_dbusmock
from tests.integration.bus.private_bus import OTHER_UID, CommandResult, PolicyBus, policy_bus
from tests.integration.bus.test_manager_clients import ARGUMENTS
from tests.scripted_user_names import ScriptedUserNames
from tests.waiting import until

pytestmark = [needs_dbusmock, pytest.mark.skipif(os.getuid() != 0, reason="needs root, to call as another user")]

GUARDED = [(member, action) for (name, member), action in ACTIONS.items() if name == MANAGER and action is not None]


@pytest.fixture
async def bus() -> AsyncIterator[PolicyBus]:
    async with policy_bus(POLICY) as running:
        yield running


@pytest.fixture
async def served(bus: PolicyBus) -> AsyncIterator[ServedManager]:
    connection = await BusConnection.connect(bus.address)
    async with serve_manager(bus, PolkitAuthority(connection, ScriptedUserNames())) as served:
        yield served
    await connection.close()


@pytest.fixture
async def polkit(bus: PolicyBus) -> AsyncIterator[MockPolkit]:
    async with mock_polkit(bus.address) as running:
        yield running


async def call(served: ServedManager, member: str) -> CommandResult:
    """Call a method as another user."""
    return await served.bus.call(member, *ARGUMENTS.get(member, ()), uid=OTHER_UID)


@pytest.mark.parametrize(("member", "action"), GUARDED)
async def test_only_callers_authorized_by_polkit_are_allowed(
    served: ServedManager, client: Client, polkit: MockPolkit, member: str, action: str
) -> None:
    await client.call("Acquire", "sa{sv}", "ollama", {})
    served.arbiter.waiting.append(Owner("root", 0))
    others = sorted({str(other) for _, other in GUARDED} - {action})
    await polkit.control_mock("SetAllowed", "as", others)
    before, leases = list(served.arbiter.calls), dict(served.arbiter.leases)
    assert (await call(served, member)).err == "Call failed: Access denied\n"
    assert (served.arbiter.calls, served.arbiter.leases) == (before, leases)
    await polkit.control_mock("SetAllowed", "as", [action])
    allowed = await call(served, member)
    assert allowed.returncode == 0, allowed.err
    assert len(served.arbiter.calls) == len(before) + 1


async def test_hanging_polkit_delays_only_the_checked_call(
    served: ServedManager, client: Client, polkit: MockPolkit
) -> None:
    await polkit.control_mock("AllowUnknown", "b", True)
    await polkit.control_mock("SimulateHang", "b", True)
    waiting = asyncio.ensure_future(call(served, "Acquire"))
    await polkit.wait_for_check()
    lease, _ = await client.call("Acquire", "sa{sv}", "ollama", {})
    await client.call("Release", "s", lease)
    assert (await served.bus.call("GetStatus", uid=OTHER_UID)).returncode == 0
    assert not waiting.done()
    await polkit.control_mock("ReleaseHangingCalls")
    assert (await waiting).returncode == 0
    assert len(served.arbiter.leases) == 1


async def test_caller_that_leaves_during_the_check_gets_no_lease(served: ServedManager, polkit: MockPolkit) -> None:
    await polkit.control_mock("AllowUnknown", "b", True)
    await polkit.control_mock("SimulateHang", "b", True)
    where = ("org.gpumand1", "/org/gpumand1", MANAGER, "Acquire", *ARGUMENTS["Acquire"])
    leaver = await asyncio.create_subprocess_exec(
        *("busctl", f"--address={served.bus.address}", "call", *where), user=OTHER_UID, group=OTHER_UID, extra_groups=[]
    )
    await polkit.wait_for_check()
    leaver.kill()
    await leaver.wait()
    await until(lambda: not served.connection._calls._waiting, "its call is over")
    await polkit.control_mock("ReleaseHangingCalls")
    await polkit.control_mock("SimulateHang", "b", False)
    assert (await call(served, "Acquire")).returncode == 0
    assert [lease.id for lease in served.arbiter.leases.values()] == ["a0001"]


async def test_polkit_crash_during_the_check_refuses_the_call(
    served: ServedManager, client: Client, polkit: MockPolkit
) -> None:
    await polkit.control_mock("AllowUnknown", "b", True)
    await polkit.control_mock("SimulateHang", "b", True)
    waiting = asyncio.ensure_future(call(served, "Evict"))
    await polkit.wait_for_check()
    await polkit.kill()
    assert (await waiting).err == "Call failed: Access denied\n"
    assert served.arbiter.calls == []
    await client.call("Evict", "sa{sv}", "ollama", {})
