"""A clock that is held, the store in memory that runs on it, and fleets of scripted hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from gpumand.testing.clock import FakeClock
from gpumand.testing.fleet_store import MemoryFleet
from tests.unit.fleet.fleet_rows import COLD, RESIDENT, consumer, host
from tests.unit.fleet.router_setup import started_fleet
from tests.unit.fleet.scripted_fleet import ScriptedFleet


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def fleet(clock: FakeClock) -> Iterator[MemoryFleet]:
    found = MemoryFleet(clock)
    yield found
    found.close()


@pytest.fixture
async def cold() -> AsyncIterator[ScriptedFleet]:
    """Three hosts; chat is loaded on none."""
    started = await started_fleet(*(host(number, chat=consumer(COLD)) for number in (1, 2, 3)))
    yield started
    await started.close()


@pytest.fixture
async def resident() -> AsyncIterator[ScriptedFleet]:
    """Three hosts; chat is loaded on gpu2."""
    started = await started_fleet(
        host(1, chat=consumer(COLD)), host(2, chat=consumer(RESIDENT)), host(3, chat=consumer(COLD))
    )
    yield started
    await started.close()
