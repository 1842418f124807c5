"""Units that another program starts, with and without a start phase (ExecStartPre=, Type=notify, Type=exec)."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import UnitActivity
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import at_work, by_unit, reports, reserved, residency

PID = 4711
ACTIVATING, ACTIVE = UnitActivity.ACTIVATING, UnitActivity.ACTIVE


@pytest.mark.parametrize("has_start_phase", [True, False])
async def test_first_memory_of_a_unit_that_another_program_started_is_waited_for(has_start_phase: bool) -> None:
    world = await at_work(by_unit("llm", 14000), by_unit("image", 12000))
    if has_start_phase:
        world.units.become("llm.service", ACTIVATING)
        await world.clock.sleep(0.1)
    world.vram.hold(PID, 0, name="llm", consumer="llm", unit="llm.service")
    world.units.become("llm.service", ACTIVE)
    world.vram.release(world._unit_pids["llm.service"])
    assert (residency(world, "llm"), reserved(world)) == ("resident", {"llm": 14000})
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=20)))
    await world.clock.sleep(1.5)
    assert not world.units.calls, "until its memory shows, an eviction could not be verified"
    world.vram.release(PID)
    world.vram.hold(PID, 14000, name="llm", consumer="llm", unit="llm.service")
    world.units.units["llm.service"].stopped = lambda: world.vram.release(PID)

    assert (await acquiring).evicted == ("llm",)
    assert [(one.consumer, one.freed_mib) for one in reports(world)] == [("llm", 14000)]
