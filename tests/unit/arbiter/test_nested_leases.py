"""Requests of clients that keep a lease: refused at once where they would wait for themselves."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import Policy, UnitActivity
from gpumand.domain.errors import Busy, TimedOut, WouldDeadlock
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed
from tests.unit.arbiter.nested_lease_setup import CONNECTION, LONG, acquire, make_world, started_world, within


@pytest.fixture(params=list(Policy))
async def world(request: pytest.FixtureRequest) -> FakeWorld:
    return await started_world(request.param)


async def test_request_that_waits_for_its_own_lease_is_refused_at_once(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    began = world.clock.monotonic()

    with pytest.raises(WouldDeadlock) as refused:
        await world.arbiter.acquire(client(2), "b", within(outer))

    assert world.clock.monotonic() - began < 1.0
    assert refused.value.dbus_name == "org.gpumand1.Error.WouldDeadlock"
    assert f"lease {outer.id} on a" in refused.value.message
    assert f"--yield {outer.id} b" in refused.value.message
    assert world.arbiter.status().queue == ()


async def test_request_that_fits_beside_its_own_lease_is_granted(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")

    assert (await world.arbiter.acquire(client(2), "small", within(outer))).lease.consumer == "small"


async def test_second_lease_on_the_same_consumer_is_granted(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")

    assert (await world.arbiter.acquire(client(2), "a", within(outer))).lease.consumer == "a"


async def test_own_lease_and_one_slot_are_a_deadlock() -> None:
    world = make_world(concurrent_leases=1)
    await world.start()
    outer = await acquire(world, 1, "a")

    with pytest.raises(WouldDeadlock):
        await world.arbiter.acquire(client(2), "small", within(outer))


async def test_exclusive_request_beside_an_own_lease_is_a_deadlock(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")

    with pytest.raises(WouldDeadlock):
        await world.arbiter.acquire(client(2), "small", within(outer, exclusive=True))


async def test_request_waits_where_the_lease_of_another_client_is_in_its_way_too() -> None:
    """With a and c leased, wide fits once the other client's lease on c ends: the own lease on a may stay."""
    world = FakeWorld([routed("a", 4000), routed("c", 14000), routed("wide", 16000)])
    await world.start()
    outer, other = await acquire(world, 1, "a"), await acquire(world, 2, "c")
    nested = asyncio.create_task(world.arbiter.acquire(client(3), "wide", within(outer)))
    await world.clock.sleep(5.0)
    assert not nested.done()

    await world.arbiter.release(other.id)

    assert (await nested).lease.consumer == "wide"


async def test_leases_of_other_users_do_not_count_as_own(world: FakeWorld) -> None:
    other = (await world.arbiter.acquire(client(1, uid=1001), "a", CONNECTION)).lease

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=3, within=(other.id,)))


async def test_request_that_does_not_wait_is_busy_and_no_deadlock(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")

    with pytest.raises(Busy):
        await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=0, within=(outer.id,)))


async def test_unknown_ids_and_ended_leases_do_not_count(world: FakeWorld) -> None:
    ended = await acquire(world, 1, "a")
    await world.arbiter.release(ended.id)

    options = AcquireOptions(timeout_sec=60, within=(ended.id, "nonsense"))
    assert (await world.arbiter.acquire(client(2), "b", options)).lease.consumer == "b"


@pytest.mark.parametrize(("unit", "is_deadlock"), [("job.service", True), ("session-3.scope", False)])
async def test_lease_that_ends_with_the_service_of_the_caller_counts_as_own(unit: str, is_deadlock: bool) -> None:
    world = make_world()
    await world.start()
    world.units.units[unit] = FakeUnit(unit)
    world.units.become(unit, UnitActivity.ACTIVE)
    owner = client(1, unit=unit)
    await world.arbiter.acquire(owner, "a", AcquireOptions(lifetime=LeaseLifetime.UNIT))

    with pytest.raises(WouldDeadlock if is_deadlock else TimedOut):
        await world.arbiter.acquire(client(2, unit=unit), "b", AcquireOptions(timeout_sec=3))


async def test_request_is_not_queued_behind_one_that_waits_for_the_lease_of_its_client(world: FakeWorld) -> None:
    await world.arbiter.load("small", "", 60)
    outer = await acquire(world, 1, "a")
    behind = asyncio.create_task(world.arbiter.acquire(client(2), "b", LONG))
    await world.clock.sleep(40.0)

    nested = await asyncio.wait_for(world.arbiter.acquire(client(3), "small", within(outer)), 30)

    assert nested.lease.consumer == "small"
    await world.arbiter.release(nested.lease.id)
    await world.arbiter.release(outer.id)
    await behind


async def test_request_of_a_command_that_runs_under_the_lease_is_refused_at_once(world: FakeWorld) -> None:
    outer = await acquire(world, 1, "a")
    world.vram.ancestors_of[client(2).pid] = (4000, client(1).pid)
    began = world.clock.monotonic()

    with pytest.raises(WouldDeadlock, match=outer.id):
        await world.arbiter.acquire(client(2), "b", LONG)

    assert world.clock.monotonic() - began < 1.0
    assert world.arbiter.status().queue == ()


async def test_request_beside_the_lease_of_an_ancestor_is_granted(world: FakeWorld) -> None:
    await acquire(world, 1, "a")
    world.vram.ancestors_of[client(2).pid] = (client(1).pid,)

    assert (await world.arbiter.acquire(client(2), "small", LONG)).lease.consumer == "small"


@pytest.mark.parametrize("reason", ["ttl", "other user", "no ancestor", "same connection"])
async def test_lease_that_may_end_meanwhile_is_waited_for(world: FakeWorld, reason: str) -> None:
    outer = await acquire(world, 1, "a", LONG if reason == "ttl" else CONNECTION)
    owner = client(1) if reason == "same connection" else client(2, uid=1001 if reason == "other user" else 1000)
    if reason != "no ancestor":
        world.vram.ancestors_of[owner.pid] = (client(1).pid,)
    waiting = asyncio.create_task(world.arbiter.acquire(owner, "b", LONG))
    await world.clock.sleep(40.0)
    assert not waiting.done()

    await world.arbiter.release(outer.id)

    assert (await waiting).lease.consumer == "b"
