"""Parked consumers: their residual memory, a restart of the daemon, stopped units and missing answers."""

from __future__ import annotations

import asyncio

from gpumand.domain.consumer import UnitActivity
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import residency
from tests.unit.arbiter.parking_setup import make_world, sleeper


async def test_residual_memory_of_a_parked_consumer_is_measured() -> None:
    world = make_world(sleeper("a", 14000))
    world.routes.place("a", 14000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    await world.arbiter.evict("a", False, 20.0)
    await world.clock.sleep(10)

    assert world.arbiter.state.consumer("a").memory.residual_mib == 500
    housekeeping.cancel()


async def test_parked_consumer_is_recognized_after_a_restart() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 9000, health=None))
    world.routes.place("b", 500).loaded = False
    await world.start()

    assert [residency(world, name) for name in "ab"] == ["parked", "parked"]
    plan = await world.arbiter.plan(client(1), "a", AcquireOptions())
    assert (plan.verdict, plan.load) == (Verdict.GRANT, True)


async def test_residual_memory_on_two_devices_does_not_count_as_a_model() -> None:
    """Only readings show whether it is parked."""
    wide = sleeper("a", 14000, health=None, device_count=2, residual_mib=1500)
    world = make_world(wide, total_mib=(24564, 24564))
    world.routes.consumer("a").also_on = (1,)
    world.routes.place("a", 14000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    assert residency(world, "a") == "resident"

    await world.arbiter.evict("a", False, 20.0)
    await world.clock.sleep(20)

    assert residency(world, "a") == "parked"
    housekeeping.cancel()


async def test_stopped_unit_is_no_longer_parked() -> None:
    world = make_world(sleeper("a", 14000))
    world.routes.place("a", 14000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.evict("a", False, 20.0)
    await world.clock.sleep(20)
    assert residency(world, "a") == "parked"

    world.routes.die("a")
    world.units.become("a.service", UnitActivity.INACTIVE)
    await world.clock.sleep(20)

    assert residency(world, "a") == "unloaded"
    housekeeping.cancel()


async def test_parked_consumer_that_briefly_does_not_answer_stays_parked() -> None:
    world = make_world(sleeper("a", 14000))
    world.routes.place("a", 14000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.evict("a", False, 20.0)

    world.routes.consumer("a").hangs = True
    await world.clock.sleep(30)

    assert residency(world, "a") == "parked"
    housekeeping.cancel()
