"""Requests that may take one of several devices are decided again when a lease ends on any of them."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.errors import TimedOut
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

DEVICES = (0, 1)


def two_devices(*names: str) -> FakeWorld:
    """A host with two devices, each of which has room for one of these consumers or for ``wanted``."""
    specs = [routed(name, 14000) for name in names]
    scheduler = SchedulerSettings(policy=Policy.LRU, min_turn_sec=0.0, concurrent_leases=0)
    world = FakeWorld([*specs, routed("wanted", 9000)], scheduler=scheduler, total_mib=(16384, 16384))
    world.routes.where = lambda name: world.arbiter.state.ledger.consumer(name).devices
    return world


async def leased(world: FakeWorld, number: int, consumer: str, device: int) -> Grant:
    options = AcquireOptions(timeout_sec=60.0, device=str(device))
    return await world.arbiter.acquire(client(number), consumer, options)


@pytest.mark.parametrize("ended", DEVICES)
async def test_lease_that_the_reason_does_not_name_is_waited_for_on_another_device(ended: int) -> None:
    world = two_devices("left", "right")
    await world.start()
    grants = [await leased(world, device, name, device) for device, name in enumerate(("left", "right"))]
    waiting = asyncio.create_task(world.arbiter.acquire(client(3), "wanted", AcquireOptions(timeout_sec=60.0)))
    await world.clock.sleep(0.1)
    world.arbiter.scheduler.step()  # as after a reading
    assert "reserved for left" in world.arbiter.status().queue[0].waiting_for
    await world.arbiter.release(grants[ended].lease.id)
    # No reading comes in between: nothing but the end of the lease is a reason to decide the request again.
    grant = await waiting
    assert (grant.lease.device, grant.evicted) == (str(ended), (("left", "right")[ended],))
    await world.arbiter.stop("end")


async def test_second_lease_keeps_behind_a_request_that_waits_for_its_device_since_the_first() -> None:
    world = three_devices()
    await world.start()
    for device, name in enumerate(("front", "side")):
        await world.arbiter.load(name, str(device), 60.0)
    await leased(world, 3, "back", 2)
    # It could have devices 0 and 1 only if two consumers were evicted, so that it waits for device 2.
    options = AcquireOptions(timeout_sec=60.0, device="0")
    waiting = asyncio.create_task(world.arbiter.acquire(client(4), "double", options))
    await world.clock.sleep(0.1)
    await world.arbiter.acquire(client(5), "side", AcquireOptions(timeout_sec=0.5))
    # By that lease, which will end, it waits for device 1 as well.
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(6), "side", AcquireOptions(timeout_sec=0.5))
    waiting.cancel()
    await world.arbiter.stop("end")


def three_devices() -> FakeWorld:
    """A host on which ``double`` needs two devices, and no request may go ahead of an earlier one."""
    specs = [routed("front", 9000), routed("side", 14000), routed("back", 9000)]
    scheduler = SchedulerSettings(
        policy=Policy.LRU, min_turn_sec=0.0, concurrent_leases=0, max_evictions=1, overtake_budget_sec=0.0
    )
    specs.append(routed("double", 9000, device_count=2))
    world = FakeWorld(specs, scheduler=scheduler, total_mib=(16384, 16384, 16384))
    world.routes.where = lambda name: world.arbiter.state.ledger.consumer(name).devices
    return world


async def test_reason_does_not_name_a_lease_that_began_and_ended_while_its_consumer_could_not_be_evicted() -> None:
    specs = [routed("held", 9000), routed("wide", 2000, device_count=2), routed("slow", 1000), routed("wanted", 7000)]
    scheduler = SchedulerSettings(policy=Policy.LRU, min_turn_sec=0.0, concurrent_leases=0)
    world = FakeWorld(specs, scheduler=scheduler, total_mib=(16384, 16384))
    world.routes.where = lambda name: world.arbiter.state.ledger.consumer(name).devices
    world.routes.consumer("slow").load_sec = 30.0
    await world.start()
    await leased(world, 1, "held", 0)
    await world.arbiter.load("wide", "", 60.0)
    # A load on device 1, where it is too, keeps it from being evicted on device 0.
    waiting = [asyncio.create_task(leased(world, 2, "slow", 1)), asyncio.create_task(leased(world, 3, "wanted", 0))]
    await world.clock.sleep(0.1)
    world.arbiter.scheduler.step()  # as after a reading
    world.vram.read_sec = 1.0  # no reading ends during the lease
    grant = await world.arbiter.acquire(client(4), "wide", AcquireOptions(priority=50))
    assert grant.lease.id[:6] in _reason(world, "wanted")
    await world.arbiter.release(grant.lease.id)
    assert grant.lease.id[:6] not in _reason(world, "wanted")
    for task in waiting:
        task.cancel()
    await world.arbiter.stop("end")


def _reason(world: FakeWorld, consumer: str) -> str:
    return next(one.waiting_for for one in world.arbiter.status().queue if one.consumer == consumer)
