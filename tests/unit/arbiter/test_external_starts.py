"""Units that another program starts, with and without a start phase (ExecStartPre=, Type=notify, Type=exec)."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import ConsumerSpec, SchedulerSettings, UnitActivity
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, reports, reserved, residency

PID = 4711
ACTIVATING, ACTIVE = UnitActivity.ACTIVATING, UnitActivity.ACTIVE


async def at_work(*specs: ConsumerSpec) -> FakeWorld:
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    await world.start()
    await world.arbiter.watch_units()
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    return world


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
