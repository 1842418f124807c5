"""Exclusive leases: nothing else is leased on the device while one stands, and it waits until that is so."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.errors import Busy, TimedOut
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

LONG = AcquireOptions(timeout_sec=3600)
EXCLUSIVE = AcquireOptions(timeout_sec=3600, exclusive=True)


@pytest.fixture(params=list(Policy))
async def world(request: pytest.FixtureRequest) -> FakeWorld:
    scheduler = SchedulerSettings(policy=request.param, min_turn_sec=0.0)
    made = FakeWorld([routed("a", 5000), routed("b", 5000), routed("c", 5000)], scheduler=scheduler)
    await made.start()
    return made


async def test_exclusive_lease_waits_until_no_other_lease_stands(world: FakeWorld) -> None:
    leases = [(await world.arbiter.acquire(client(n), name, LONG)).lease for n, name in ((1, "a"), (2, "b"))]
    alone = asyncio.create_task(world.arbiter.acquire(client(3), "a", EXCLUSIVE))
    await world.clock.sleep(1.0)
    (waiting,) = world.arbiter.status().queue
    assert "an exclusive lease needs device 0 without other leases, and it is leased to a, b" in waiting.waiting_for

    await world.arbiter.release(leases[0].id)
    await world.clock.sleep(1.0)
    assert not alone.done()
    await world.arbiter.release(leases[1].id)

    assert (await alone).lease.exclusive


async def test_nothing_is_leased_or_loaded_beside_an_exclusive_lease(world: FakeWorld) -> None:
    await world.arbiter.acquire(client(9), "c", LONG)
    await world.arbiter.release(next(iter(world.arbiter.state.ledger.leases)))
    alone = await world.arbiter.acquire(client(1), "a", EXCLUSIVE)

    for name in ("a", "b", "c"):
        with pytest.raises(TimedOut, match="device 0 is leased exclusively to a"):
            await world.arbiter.acquire(client(2), name, AcquireOptions(timeout_sec=3))
    assert world.arbiter.consumer_status("b").residency == "unloaded"

    await world.arbiter.release(alone.lease.id)
    assert (await world.arbiter.acquire(client(2), "c", AcquireOptions())).lease.consumer == "c"


async def test_no_lease_is_granted_while_the_consumer_of_an_exclusive_lease_loads(world: FakeWorld) -> None:
    await world.arbiter.load("b", "", 60)
    world.routes.consumer("a").load_sec = 10.0
    alone = asyncio.create_task(world.arbiter.acquire(client(1), "a", EXCLUSIVE))
    await world.clock.sleep(1.0)

    other = asyncio.create_task(world.arbiter.acquire(client(2), "b", LONG))
    await world.clock.sleep(1.0)
    waiting = [one.waiting_for for one in world.arbiter.status().queue if one.consumer == "b"]

    assert "device 0 is leased exclusively to a (being loaded)" in waiting[0]
    lease = (await alone).lease
    assert [one.id for one in world.arbiter.status().leases] == [lease.id]
    await world.arbiter.release(lease.id)
    await other


async def test_request_that_takes_over_the_load_of_another_still_waits_to_be_alone(world: FakeWorld) -> None:
    world.routes.consumer("a").load_sec = 10.0
    await world.arbiter.load("b", "", 60)
    other = await world.arbiter.acquire(client(2), "b", LONG)
    leaving = asyncio.create_task(world.arbiter.acquire(client(1), "a", LONG))
    await world.clock.sleep(1.0)
    alone = asyncio.create_task(world.arbiter.acquire(client(3), "a", EXCLUSIVE))
    await world.clock.sleep(1.0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    await world.clock.sleep(30.0)
    assert not alone.done()
    await world.arbiter.release(other.lease.id)
    assert (await alone).lease.exclusive


async def test_stream_of_other_leases_does_not_starve_an_exclusive_request(world: FakeWorld) -> None:
    async def stream(number: int) -> None:
        while True:
            grant = await world.arbiter.acquire(client(number), "a", LONG)
            await world.clock.sleep(5.0)
            await world.arbiter.release(grant.lease.id)

    tasks = [asyncio.create_task(stream(number)) for number in (1, 2, 3)]
    await world.clock.sleep(20.0)
    began = world.clock.monotonic()
    await world.arbiter.acquire(client(9), "b", EXCLUSIVE)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert world.clock.monotonic() - began < 40.0


async def test_exclusive_lease_survives_a_restart_of_the_daemon(world: FakeWorld) -> None:
    await world.arbiter.load("b", "", 60)
    held = await world.arbiter.acquire(client(1), "a", EXCLUSIVE)
    after = FakeWorld(
        [routed("a", 5000), routed("b", 5000)], store=world.store, clock=world.clock, archive=world.archive
    )
    after.owners.gone |= world.owners.gone
    await after.start()

    assert after.arbiter.lease(held.lease.id).exclusive
    with pytest.raises(Busy):
        await after.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=0))


async def test_plan_of_an_exclusive_request_says_what_it_waits_for(world: FakeWorld) -> None:
    await world.arbiter.acquire(client(1), "a", LONG)

    plan = await world.arbiter.plan(client(2), "a", replace(EXCLUSIVE))

    assert plan.verdict is Verdict.WAIT
    assert "without other leases" in plan.message


async def test_exclusive_lease_on_one_device_leaves_the_other_one_alone() -> None:
    world = FakeWorld([routed("a", 5000, devices=("0",)), routed("b", 5000, devices=("1",))], total_mib=(24564, 24564))
    world.routes.where = lambda name: world.arbiter.state.consumer(name).devices
    await world.start()
    await world.arbiter.acquire(client(1), "a", EXCLUSIVE)

    assert (await world.arbiter.acquire(client(2), "b", AcquireOptions())).lease.device == "1"
