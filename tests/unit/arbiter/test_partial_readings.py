"""While an eviction settles, only the devices concerned are read; the others keep their last samples."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.device import Reading
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

SETTLE_SEC = 3.0


async def world_of_two() -> FakeWorld:
    """Two consumers that exclude each other on device 0, and one on device 1; memory is free late after an unload."""
    specs = [routed(name, 16000, devices=("0",)) for name in ("a", "b")] + [routed("c", 8000, devices=("1",))]
    world = FakeWorld(specs, total_mib=(24564, 24564), scheduler=SchedulerSettings(min_turn_sec=0.0))
    world.routes.consumer("c").device = 1
    world.routes.consumer("a").early_unload, world.routes.consumer("a").unload_sec = True, SETTLE_SEC
    await world.start()
    return world


async def use_a(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    await world.arbiter.release(lease.id)


async def test_eviction_that_settles_reads_its_own_device_only() -> None:
    world = await world_of_two()
    await use_a(world)
    before = world.vram.device_reads.copy()

    granted = await world.arbiter.acquire(client(2), "b", AcquireOptions())

    more = world.vram.device_reads - before
    assert granted.evicted == ("a",)
    assert more[0] - more[1] >= SETTLE_SEC / 0.1, more


async def test_reading_of_one_device_is_not_taken_for_a_reading_of_all() -> None:
    world = await world_of_two()
    await world.arbiter.state.sample()
    sampled_at, other = world.arbiter.state.sampled_at, world.arbiter.state.device(1)
    await world.clock.sleep(5)
    world.vram.hold(7, 5000, device=0)
    world.vram.hold(8, 5000, device=1)

    await world.arbiter.state.sample((0,))

    state = world.arbiter.state
    assert (state.device(0).used_mib, state.device(1)) == (5000, other)
    assert state.sampled_at == sampled_at, "a request for the other device needs a reading that is newer"


async def test_older_reading_of_all_devices_does_not_replace_a_newer_one_of_one_device() -> None:
    world = await world_of_two()
    await world.clock.sleep(5)
    world.vram.read_sec = 0.0
    old: Reading = await world.vram.read()
    await world.arbiter.state.sample()
    await world.clock.sleep(1)
    whole = await world.vram.read()
    await world.clock.sleep(1)
    world.vram.hold(7, 5000, device=0)
    await world.arbiter.state.sample((0,))

    world.arbiter.state.store_reading(whole)

    state = world.arbiter.state
    assert state.device(0).used_mib == 5000
    assert state.device(1) == replace(whole.devices[1])
    world.arbiter.state.store_reading(old)
    assert state.device(1) == whole.devices[1]


async def test_request_for_the_other_device_is_served_while_an_eviction_settles() -> None:
    world = await world_of_two()
    await use_a(world)
    waiting = asyncio.ensure_future(world.arbiter.acquire(client(2), "b", AcquireOptions()))
    await world.clock.sleep(0.3)
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(3), "c", AcquireOptions())

    assert world.clock.monotonic() - began <= 2.5, "its load takes 2 s"
    assert not waiting.done()
    await waiting
