"""A unit that does not stop in time: requests say so instead of calling it in use."""

from __future__ import annotations

import pytest

from gpumand.domain.errors import TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed
from tests.unit.arbiter.test_busy import housekeeping


async def test_request_names_the_unit_that_does_not_stop() -> None:
    world = FakeWorld([by_unit("old", 15000, stop_timeout_sec=5.0), routed("llm", 20000)])
    await world.start()
    await world.units.start("old.service", 10.0)
    world.units.units["old.service"].stop_delay_sec = 40.0
    async with housekeeping(world):
        await world.clock.sleep(5.0)

        with pytest.raises(TimedOut, match=r"old is still being unloaded \(old\.service did not stop within 5 s\)"):
            await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))
