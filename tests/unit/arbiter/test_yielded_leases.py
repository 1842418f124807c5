"""Leases that are given back for a nested one: restored afterwards, and over a restart of the daemon."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import Policy
from gpumand.domain.errors import AccessDenied, InvalidArgs, LoadFailed, NoSuchLease
from gpumand.domain.events import LeaseDegraded, LeaseEnded, LeaseReturned, LeaseYielded
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import drop_model, residency, routed
from tests.unit.arbiter.nested_lease_setup import CONNECTION, acquire, started_world, yielding


@pytest.fixture(params=list(Policy))
async def world(request: pytest.FixtureRequest) -> FakeWorld:
    return await started_world(request.param)


# -- giving back -------------------------------------------------------------------------------------------------------


async def test_outer_lease_is_given_back_and_restored_around_a_nested_one(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")

    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))

    assert nested.evicted == ("a",)
    assert world.arbiter.lease(outer.id).yielded
    assert world.arbiter.lease(nested.lease.id).yields == outer.id
    assert [one.lease.id for one in world.named(LeaseYielded)] == [outer.id]
    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(60.0)
    assert residency(world, "a") == "resident"
    restored = world.arbiter.lease(outer.id)
    assert (restored.yielded, restored.device) == (False, "0")
    assert world.arbiter.consumer_status("a").leases == 1
    assert [one.lease.id for one in world.named(LeaseReturned)] == [outer.id]
    assert not world.store.leases[outer.id].yielded
    await world.arbiter.release(outer.id)


async def test_lease_is_given_back_only_when_the_request_is_served(world: FakeWorld) -> None:
    outer, other = await acquire(world, 1, "a"), await acquire(world, 2, "a")
    nested = asyncio.create_task(world.arbiter.acquire(client(3), "b", yielding(outer)))
    await world.clock.sleep(5.0)
    assert not world.arbiter.lease(outer.id).yielded

    await world.arbiter.release(other.id)
    await nested

    assert world.arbiter.lease(outer.id).yielded


async def test_nested_request_that_fails_restores_the_outer_lease(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    world.routes.consumer("b").load_error = "out of memory"

    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(2), "b", yielding(outer))

    await world.clock.sleep(60.0)
    assert residency(world, "a") == "resident"
    assert not world.arbiter.lease(outer.id).yielded


async def test_nested_client_that_disappears_restores_the_outer_lease(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    await world.arbiter.acquire(client(2), "b", yielding(outer, lifetime=LeaseLifetime.CONNECTION))

    await world.arbiter.owner_vanished(client(2).bus_name)
    await world.clock.sleep(60.0)

    assert residency(world, "a") == "resident"
    assert not world.arbiter.lease(outer.id).yielded


async def test_nested_request_that_is_cancelled_during_its_load_restores_the_outer_lease(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    world.routes.consumer("b").load_sec = 20.0
    nested = asyncio.create_task(world.arbiter.acquire(client(2), "b", yielding(outer)))
    await world.clock.sleep(5.0)
    assert world.arbiter.lease(outer.id).yielded

    nested.cancel()
    await asyncio.gather(nested, return_exceptions=True)
    await world.clock.sleep(120.0)

    assert residency(world, "a") == "resident"
    assert not world.arbiter.lease(outer.id).yielded


async def test_outer_client_that_disappears_ends_its_lease_and_not_the_nested_one(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))

    await world.arbiter.owner_vanished(client(1).bus_name)

    assert [one.id for one in world.arbiter.status().leases] == [nested.lease.id]
    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(60.0)
    assert residency(world, "b") == "resident", "nothing is restored for a lease that has ended"


async def test_outer_lease_that_is_released_while_it_is_being_restored_ends_the_request_for_it(
    world: FakeWorld,
) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))
    other = await acquire(world, 3, "b")
    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(1.0)
    assert [one.consumer for one in world.arbiter.status().queue] == ["a"]

    await world.arbiter.release(outer.id)

    assert world.arbiter.status().queue == ()
    await world.arbiter.release(other.id)


async def test_lease_that_cannot_be_restored_ends_with_a_reason_of_its_own(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))
    world.routes.consumer("a").load_error = "file is gone"

    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(60.0)

    ends = {one.lease.id: one.reason for one in world.named(LeaseEnded)}
    assert ends[outer.id] is LeaseEnd.NOT_RESTORED
    assert world.arbiter.status().leases == ()
    assert outer.id not in world.store.leases


async def test_restoring_goes_ahead_of_requests_that_arrived_later(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))
    late = asyncio.create_task(world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=3600, priority=-50)))
    await world.clock.sleep(1.0)
    if late.done():
        await world.arbiter.release((await late).lease.id)
    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(120.0)

    assert not world.arbiter.lease(outer.id).yielded


async def test_two_nested_leases_share_the_place_of_one_outer_lease(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    first = await world.arbiter.acquire(client(2), "b", yielding(outer))
    second = await world.arbiter.acquire(client(3), "b", yielding(outer))

    await world.arbiter.release(first.lease.id)
    await world.clock.sleep(30.0)
    assert world.arbiter.lease(outer.id).yielded
    await world.arbiter.release(second.lease.id)
    await world.clock.sleep(60.0)

    assert not world.arbiter.lease(outer.id).yielded


async def test_lease_nested_in_a_nested_lease_restores_one_after_the_other() -> None:
    world = FakeWorld([routed(name, 14000) for name in "abc"])
    await world.start()
    outer = await acquire(world, 1, "a")
    middle = (await world.arbiter.acquire(client(2), "b", yielding(outer))).lease
    inner = (await world.arbiter.acquire(client(3), "c", yielding(middle))).lease

    for lease, back in ((inner, middle), (middle, outer)):
        await world.arbiter.release(lease.id)
        await world.clock.sleep(60.0)
        assert residency(world, back.consumer) == "resident"
        assert not world.arbiter.lease(back.id).yielded


async def test_only_an_own_lease_on_another_consumer_can_be_given_back(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    foreign = (await world.arbiter.acquire(client(4, uid=1001), "small", CONNECTION)).lease
    memory = (await world.arbiter.acquire(client(5), "", AcquireOptions(vram_mib=500))).lease

    for options, name, error in (
        (AcquireOptions(yield_lease="nonsense"), "b", NoSuchLease),
        (yielding(outer), "a", InvalidArgs),
        (yielding(foreign), "b", AccessDenied),
        (yielding(memory), "b", InvalidArgs),
    ):
        with pytest.raises(error):
            await world.arbiter.acquire(client(2), name, options)


async def test_consumer_that_is_given_back_can_be_leased_by_others(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "small", yielding(outer))

    other = await world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=60))

    assert other.evicted == ("a",)
    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(5.0)
    assert world.arbiter.lease(outer.id).yielded
    await world.arbiter.release(other.lease.id)
    await world.clock.sleep(60.0)
    assert not world.arbiter.lease(outer.id).yielded


# -- restarts of the daemon --------------------------------------------------------------------------------------------


async def restarted(world: FakeWorld) -> FakeWorld:
    after = FakeWorld(
        [routed("a", 14000), routed("b", 14000), routed("small", 2000)],
        store=world.store,
        clock=world.clock,
        archive=world.archive,
    )
    after.owners.gone |= world.owners.gone
    for name in ("a", "b"):
        if world.routes.consumer(name).loaded:
            after.routes.place(name, 14000)
    await after.start()
    await after.housekeeping.refresh_all()
    return after


async def test_lease_stays_given_back_over_a_restart_while_the_nested_one_stands(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))
    await world.arbiter.stop("restart")

    after = await restarted(world)
    await after.clock.sleep(30.0)
    assert after.arbiter.lease(outer.id).yielded
    assert after.arbiter.consumer_status("a").leases == 0
    await after.arbiter.release(nested.lease.id)
    await after.clock.sleep(60.0)

    assert residency(after, "a") == "resident"
    assert not after.arbiter.lease(outer.id).yielded


async def test_restart_without_the_nested_lease_restores_the_outer_one(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer, lifetime=LeaseLifetime.CONNECTION))
    await world.arbiter.stop("restart")
    world.owners.gone.add(nested.lease.owner.bus_name)

    after = await restarted(world)
    await after.clock.sleep(60.0)

    assert [one.id for one in after.arbiter.status().leases] == [outer.id]
    assert residency(after, "a") == "resident"
    assert not after.arbiter.lease(outer.id).yielded


async def test_lease_with_restore_that_is_given_back_is_neither_degraded_nor_loaded_early(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a", replace(CONNECTION, restore=True))
    nested = await world.arbiter.acquire(client(2), "b", yielding(outer))
    for _ in range(5):
        await world.clock.sleep(10.0)
        await world.housekeeping.refresh_all()

    assert world.named(LeaseDegraded) == []
    assert world.arbiter.lease(outer.id).degraded == ""
    assert world.routes.called("load") == ["a", "b"]
    assert (residency(world, "a"), residency(world, "b")) == ("unloaded", "resident")

    await world.arbiter.release(nested.lease.id)
    await world.clock.sleep(60.0)
    assert world.routes.called("load") == ["a", "b", "a"]
    assert not world.arbiter.lease(outer.id).yielded
    drop_model(world, "a")
    for _ in range(5):
        await world.clock.sleep(1.0)
        await world.housekeeping.refresh_all()
    assert world.routes.called("load") == ["a", "b", "a", "a"], "from then on a loss is a loss again"
