from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpumand.bus.authorization import Authority, UidAuthority
from gpumand.bus.clients import Clients
from gpumand.bus.connection import BusConnection, Signal
from gpumand.bus.names import BUS_NAME
from gpumand.bus.service import ManagerService
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.ports import UnitFailed
from tests.integration.bus.private_bus import PolicyBus, policy_bus
from tests.scripted_arbiter import ScriptedArbiter
from tests.scripted_user_names import ScriptedUserNames


@dataclass
class ScriptedUnits:
    """A unit manager with replies that the test sets and can delay."""

    unit: str = ""
    activity: UnitActivity = UnitActivity.ACTIVE
    answering: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answering.set()

    async def unit_of_pid(self, pid: int) -> str:
        self.asked.append(pid)
        await self.answering.wait()
        return self.unit

    async def state(self, unit: str) -> UnitState:
        await self.answering.wait()
        return UnitState(unit, self.activity, invocation_id="cafe")

    async def report_states(
        self, units: Iterable[str], report: Callable[[UnitState], None]
    ) -> Mapping[str, UnitFailed]:
        raise AssertionError("these tests read no states of many units")

    async def start(self, unit: str, timeout_sec: float) -> None:
        raise AssertionError("these tests start no units")

    async def stop(self, unit: str, timeout_sec: float) -> None:
        raise AssertionError("these tests stop no units")

    async def failure_lines(self, unit: str, invocation_id: str = "") -> tuple[str, ...]:
        return ()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        raise AssertionError("these tests watch no units")


@dataclass
class ServedManager:
    """A Manager that is served on a bus, with its parts."""

    bus: PolicyBus
    connection: BusConnection
    arbiter: ScriptedArbiter
    units: ScriptedUnits
    clients: Clients
    service: ManagerService


@dataclass
class Client:
    """A client on the bus that records every signal of gpumand in order."""

    connection: BusConnection
    signals: list[Signal] = field(default_factory=list)

    async def call(self, member: str, signature: str = "", *body: object) -> tuple[Any, ...]:
        return await self.connection.call(BUS_NAME, "/org/gpumand1", "org.gpumand1.Manager", member, signature, body)

    def signal_names(self) -> list[str]:
        """Return the recorded signals as "PATH MEMBER"."""
        return [f"{signal.path.removeprefix('/org/gpumand1') or '/'} {signal.member}" for signal in self.signals]


@pytest.fixture
async def bus() -> AsyncIterator[PolicyBus]:
    async with policy_bus() as running:
        yield running


@asynccontextmanager
async def serve_manager(bus: PolicyBus, authority: Authority | None = None) -> AsyncIterator[ServedManager]:
    """Serve a Manager on this bus."""
    connection = await BusConnection.connect(bus.address)
    arbiter, units = ScriptedArbiter(), ScriptedUnits()
    clients = Clients(connection, units, frozenset({0, os.getuid()}))
    authority = authority or UidAuthority(os.getuid(), ScriptedUserNames())
    service = ManagerService(connection, arbiter, clients, authority)
    arbiter.publish = service.publish
    service.export()
    await connection.request_name(BUS_NAME)
    yield ServedManager(bus, connection, arbiter, units, clients, service)
    await service.close()
    await connection.close()


@pytest.fixture
async def served(bus: PolicyBus) -> AsyncIterator[ServedManager]:
    async with serve_manager(bus) as served:
        yield served


@pytest.fixture
async def client(served: ServedManager) -> AsyncIterator[Client]:
    made = Client(await BusConnection.connect(served.bus.address))
    await made.connection.subscribe(callback=made.signals.append, sender=BUS_NAME)
    yield made
    await made.connection.close()
