"""Evictions of consumers of which neither the use nor the footprint is known: success of a route is no evidence."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import UNKNOWN_MIB, EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.errors import EvictionFailed
from gpumand.testing.world import FakeWorld
from tests.unit.arbiter.arbiter_setup import READ_SEC, lazy, reports, residency

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


async def at_work(unnamed_mib: int, **more: object) -> FakeWorld:
    world = FakeWorld([lazy("comfy", UNKNOWN_MIB, vram_auto=True, **more)], scheduler=SchedulerSettings())
    world.vram.read_sec = READ_SEC
    world.vram.attributable.discard("comfy")
    world.vram.hold_unnamed(unnamed_mib)
    world.routes.consumer("comfy").lies = True
    for unit in world.units.units:
        world.units.become(unit, UnitActivity.ACTIVE)
    await world.start()
    await world.arbiter.watch_units()
    return world


async def test_unload_that_frees_nothing_visible_is_a_failed_eviction() -> None:
    world = await at_work(8000)

    with pytest.raises(EvictionFailed, match=r"no memory became free \(how much it holds is unknown\) within 10 s"):
        await world.arbiter.evict("comfy", False, 20.0)

    assert residency(world, "comfy") == "unknown"


async def test_unit_is_stopped_when_the_unload_frees_nothing_visible() -> None:
    world = await at_work(8000, unit="comfy.service", evict=BOTH)
    world.units.units["comfy.service"].stopped = lambda: world.vram.hold_unnamed(300)

    result = await world.arbiter.evict("comfy", False, 20.0)

    assert (result.method, result.freed_mib) == ("unit-stop", 7700)
    assert [(one.freed_mib, one.verified) for one in reports(world)] == [(7700, True)]


async def test_unload_is_complete_when_the_freed_memory_rests() -> None:
    world = await at_work(8000)
    world.routes.consumer("comfy").lies = False
    evicting = asyncio.create_task(world.arbiter.evict("comfy", False, 20.0))
    for mib in (6000, 3000, 500):
        await world.clock.sleep(0.6)
        world.vram.hold_unnamed(mib)

    assert (await evicting).freed_mib == 7500


async def test_device_without_unnamed_memory_proves_that_nothing_is_left() -> None:
    world = await at_work(0)

    assert (await world.arbiter.evict("comfy", False, 20.0)).freed_mib == 0

    assert residency(world, "comfy") == "unloaded"
