"""Leases on a whole device: everything that may go is evicted, and nothing else is loaded."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import (
    TimedOut,
)
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, hold_foreign_memory, residency, routed
from tests.unit.arbiter.reservation_setup import (
    ALL,
    SHARED,
    TOTAL_MIB,
    load,
    reserved_mib,
    two_consumers,
    vram,
)


@pytest.fixture
def world() -> FakeWorld:
    return two_consumers()


async def test_whole_device_evicts_everything_that_may_go(world: FakeWorld) -> None:
    await world.start()
    await load(world, "a", "b")
    grant = await world.arbiter.acquire(client(1), "", ALL)
    assert sorted(grant.evicted) == ["a", "b"]
    assert reserved_mib(world) == TOTAL_MIB


async def test_whole_device_evicts_more_consumers_than_max_evictions() -> None:
    specs = [by_unit(f"c{number}", 1000) for number in range(7)]
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0, max_evictions=2))
    await world.start()
    for number in range(7):
        await world.units.start(f"c{number}.service", 1.0)
        world.vram.hold(100 + number, 1000, consumer=f"c{number}")
        world.units.units[f"c{number}.service"].stopped = partial(world.vram.release, 100 + number)
        world.arbiter.record_unit(await world.units.state(f"c{number}.service"))
    await world.housekeeping.refresh_all()

    grant = await world.arbiter.acquire(client(1), "", ALL)

    assert len(grant.evicted) == 7


async def test_whole_device_waits_for_leases_and_blocks_every_other_request(world: FakeWorld) -> None:
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    whole = asyncio.create_task(world.arbiter.acquire(client(2), "", ALL))
    await world.clock.sleep(1)
    assert not whole.done()

    await world.arbiter.release(lease.id)
    held = await whole
    assert held.evicted == ("a",)
    for consumer, options in (("b", AcquireOptions(timeout_sec=3)), ("", vram(10, timeout_sec=3))):
        with pytest.raises(TimedOut, match="reserved whole by reservation"):
            await world.arbiter.acquire(client(3), consumer, options)
    with pytest.raises(TimedOut):
        await world.arbiter.load("b", "", 3)

    await world.arbiter.release(held.lease.id)
    assert (await world.arbiter.acquire(client(3), "b", AcquireOptions())).loaded


async def test_whole_device_leaves_pinned_consumers_and_foreign_processes_and_names_them() -> None:
    world = FakeWorld([routed("a", 4000, pinned=True), routed("b", 4000)], scheduler=SHARED)
    hold_foreign_memory(world, 2000)
    await world.start()
    await load(world, "a", "b")

    report = await world.arbiter.plan(client(1), "", ALL)
    grant = await world.arbiter.acquire(client(1), "", ALL)

    assert grant.evicted == ("b",)
    assert residency(world, "a") == "resident"
    assert "firefox" in report.message
    assert reserved_mib(world) == TOTAL_MIB - 4000 - 2000
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=3))


async def test_whole_device_takes_one_of_two_devices_and_leaves_the_other_in_use() -> None:
    world = FakeWorld([routed("a", 10000, devices=("0",))], scheduler=SHARED, total_mib=(24564, 24564))
    await world.start()
    await load(world, "a")
    grant = await world.arbiter.acquire(client(1), "", ALL)
    assert (grant.lease.device, grant.evicted) == ("1", ())
    assert (await world.arbiter.acquire(client(2), "a", AcquireOptions())).lease.device == "0"


async def test_whole_device_survives_a_restart(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", ALL)
    after = FakeWorld([routed("a", 10000)], scheduler=SHARED, store=world.store, clock=world.clock)
    await after.start()
    with pytest.raises(TimedOut):
        await after.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=3))


async def test_whole_device_without_readings_still_blocks_others(world: FakeWorld) -> None:
    world.vram.fail("no-source: no VRAM source is configured")
    await world.start()
    await world.arbiter.acquire(client(1), "", ALL)
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=3))
