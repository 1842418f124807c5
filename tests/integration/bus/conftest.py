from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
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
from tests.integration.bus.private_bus import PolicyBus, policy_bus
from tests.scripted_arbiter import ScriptedArbiter


@dataclass
class ScriptedUnits:
    """A systemd that says what it is told to, when it is told to."""

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

    async def start(self, unit: str, timeout_sec: float) -> None:
        raise AssertionError("nobody starts units here")

    async def stop(self, unit: str, timeout_sec: float) -> None:
        raise AssertionError("nobody stops units here")

    async def failure_lines(self, unit: str) -> tuple[str, ...]:
        return ()

    async def watch(self, units: Iterable[str], changed: Callable[[UnitState], None]) -> None:
        raise AssertionError("nobody watches units here")


@dataclass
class House:
    """A served Manager and everything around it."""

    bus: PolicyBus
    connection: BusConnection
    arbiter: ScriptedArbiter
    units: ScriptedUnits
    clients: Clients
    service: ManagerService


@dataclass
class Client:
    """A program on the bus that notes every signal of gpumand, in order, as (path, member, body)."""

    connection: BusConnection
    heard: list[Signal] = field(default_factory=list)

    async def call(self, member: str, signature: str = "", *body: object) -> tuple[Any, ...]:
        return await self.connection.call(BUS_NAME, "/org/gpumand1", "org.gpumand1.Manager", member, signature, body)

    def story(self) -> list[str]:
        """What was heard, shortened."""
        return [f"{signal.path.removeprefix('/org/gpumand1') or '/'} {signal.member}" for signal in self.heard]


@pytest.fixture
async def bus() -> AsyncIterator[PolicyBus]:
    async with policy_bus() as running:
        yield running


@asynccontextmanager
async def served_on(bus: PolicyBus, authority: Authority | None = None) -> AsyncIterator[House]:
    """A Manager on this bus."""
    connection = await BusConnection.connect(bus.address)
    arbiter, units = ScriptedArbiter(), ScriptedUnits()
    clients = Clients(connection, units, frozenset({0, os.getuid()}))
    authority = authority or UidAuthority(os.getuid(), system_bus=True)
    service = ManagerService(connection, arbiter, clients, authority)
    arbiter.publish = service.publish
    service.export()
    await connection.request_name(BUS_NAME)
    yield House(bus, connection, arbiter, units, clients, service)
    await service.close()
    await connection.close()


@pytest.fixture
async def house(bus: PolicyBus) -> AsyncIterator[House]:
    async with served_on(bus) as served:
        yield served


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    made = Client(await BusConnection.connect(house.bus.address))
    await made.connection.subscribe(callback=made.heard.append, sender=BUS_NAME)
    yield made
    await made.connection.close()
