"""More units than a system bus allows unanswered calls (128) and match rules (512), on a bus with these limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumand.bus.connection import BusConnection
from gpumand.bus.names import PEER, SYSTEMD, SYSTEMD_MANAGER, SYSTEMD_PATH
from gpumand.service_manager.units import SystemdUnits
from gpumand.testing.bus import PrivateBus
from tests.integration.service_manager.host import FakeHost

COUNT = 600
NAMES = [f"u{number}.service" for number in range(COUNT)]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[FakeHost]:
    async with PrivateBus(has_system_limits=True) as bus:
        control = await BusConnection.connect(bus.address)
        host = FakeHost(bus, control, tmp_path)
        await host.boot({name: {} for name in NAMES})
        yield host
        await host.halt()
        await control.close()


@pytest.fixture
async def connection(host: FakeHost) -> AsyncIterator[BusConnection]:
    made = await BusConnection.connect(host.bus.address)
    yield made
    await made.close()


@pytest.fixture
async def units(host: FakeHost, connection: BusConnection) -> AsyncIterator[SystemdUnits]:
    made = await SystemdUnits.attach(connection, poll_sec=0.2, settle_sec=0.2)
    yield made
    await made.close()


async def test_more_questions_at_once_than_the_bus_allows_are_all_answered(host: FakeHost, units: SystemdUnits) -> None:
    async with asyncio.timeout(60):
        states = await asyncio.gather(*(units.state(name) for name in NAMES))
    assert {state.activity for state in states} == {"inactive"}


async def test_systemd_that_hangs_does_not_use_up_the_calls_to_others(
    host: FakeHost, connection: BusConnection
) -> None:
    host.pause()
    where = (SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, "LoadUnit", "s")
    calls = [asyncio.ensure_future(connection.call(*where, (name,))) for name in NAMES]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()  # the bus still expects their answers
    await asyncio.gather(*calls, return_exceptions=True)

    await connection.call(host.control.unique_name, "/", PEER, "Ping")

    host.resume()
    assert await connection.call(*where, (NAMES[0],))
