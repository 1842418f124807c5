"""Holders of leases learn that a waiting request needs their room: once for each lease and request."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import Busy, TimedOut
from gpumand.domain.events import LeaseGranted, LeaseWanted
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

MIB = 13000
LONG = AcquireOptions(timeout_sec=3600)


@pytest.fixture
async def world() -> FakeWorld:
    specs = [routed("a", MIB), routed("b", MIB), routed("small", 1000)]
    one = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0, min_turn_sec=0.0))
    await one.start()
    return one


def wanted(world: FakeWorld) -> list[tuple[str, str]]:
    return [(event.lease.id, event.by) for event in world.events if isinstance(event, LeaseWanted)]


async def test_the_holder_learns_once_that_its_lease_is_in_the_way(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", LONG))
    await world.clock.sleep(30.0)
    for _ in range(5):
        await world.housekeeping.refresh_all()

    assert wanted(world) == [(lease.id, "b")]
    await world.arbiter.release(lease.id)
    await waiting


async def test_the_time_is_that_of_the_request_not_of_the_decision(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    asked_usec = world.clock.realtime_usec()
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", LONG))
    await world.clock.sleep(60.0)

    [event] = [one for one in world.events if isinstance(one, LeaseWanted)]
    assert abs(event.since_usec - asked_usec) < 1_000_000
    await world.arbiter.release(lease.id)
    await waiting


async def test_every_lease_in_the_way_and_every_request_counts_for_itself(world: FakeWorld) -> None:
    other = (await world.arbiter.acquire(client(4), "small", AcquireOptions())).lease.id
    leases = [(await world.arbiter.acquire(client(number), "a", AcquireOptions())).lease.id for number in (1, 2)]
    waiting = [asyncio.create_task(world.arbiter.acquire(client(3), "b", LONG))]
    await world.clock.sleep(5.0)

    assert sorted(wanted(world)) == sorted((lease, "b") for lease in leases)
    assert other not in [lease for lease, _ in wanted(world)], "a lease that is in no request's way is not wanted"
    for lease in leases:
        await world.arbiter.release(lease)
    await asyncio.gather(*waiting)


async def test_a_lease_that_is_granted_later_is_announced_as_granted_before_it_is_wanted(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", LONG))
    await world.clock.sleep(5.0)
    second = (await world.arbiter.acquire(client(3), "a", AcquireOptions())).lease
    await world.housekeeping.refresh_all()

    assert wanted(world) == [(lease.id, "b"), (second.id, "b")]
    order = [type(one) for one in world.events if isinstance(one, LeaseGranted | LeaseWanted) and one.lease == second]
    assert order == [LeaseGranted, LeaseWanted]
    await world.arbiter.release(lease.id)
    await world.arbiter.release(second.id)
    await waiting


async def test_a_request_that_does_not_wait_informs_no_holder(world: FakeWorld) -> None:
    await world.arbiter.acquire(client(1), "a", AcquireOptions())

    with pytest.raises(Busy):
        await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=0))

    assert wanted(world) == []


async def test_a_request_that_fits_beside_the_lease_informs_no_holder(world: FakeWorld) -> None:
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.acquire(client(2), "small", LONG)

    assert wanted(world) == []


async def test_an_exclusive_request_wants_every_lease_on_its_device(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "small", AcquireOptions())).lease

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=10, exclusive=True))

    assert wanted(world) == [(lease.id, "a")]


async def test_a_reservation_is_wanted_and_wants_under_an_empty_name(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "", AcquireOptions(vram_mib=MIB))).lease
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "", AcquireOptions(vram_mib=MIB, timeout_sec=10))

    assert wanted(world) == [(lease.id, "")]
