from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.service_manager.units import SystemdUnits
from gpumand.testing.bus import PrivateBus
from tests.integration.service_manager.host import FakeHost

SLEEPER = {"argv": ["sleep", "1000"]}
UNITS = {
    "a.service": SLEEPER,
    "b.service": SLEEPER,
    "tree.service": {"argv": ["sh", "-c", "sleep 1000 & sleep 1000 & wait"]},
    "bare.target": {},
}


@pytest.fixture
async def empty_host(tmp_path: Path) -> AsyncIterator[FakeHost]:
    """A bus without systemd."""
    async with PrivateBus() as bus:
        control = await BusConnection.connect(bus.address)
        host = FakeHost(bus, control, tmp_path)
        yield host
        await host.halt()
        await control.close()


@pytest.fixture
async def host(empty_host: FakeHost) -> FakeHost:
    await empty_host.boot(UNITS)
    return empty_host


@pytest.fixture
async def connection(empty_host: FakeHost) -> AsyncIterator[BusConnection]:
    made = await BusConnection.connect(empty_host.bus.address)
    yield made
    await made.close()


@pytest.fixture
async def units(host: FakeHost, connection: BusConnection) -> AsyncIterator[SystemdUnits]:
    made = await SystemdUnits.attach(connection, poll_sec=0.2, settle_sec=0.2)
    yield made
    await made.close()
