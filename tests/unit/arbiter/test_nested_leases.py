"""Requests of clients that keep a lease: refused where they wait for themselves, or given back and restored."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings, UnitActivity
from gpumand.domain.errors import AccessDenied, Busy, InvalidArgs, LoadFailed, NoSuchLease, TimedOut, WouldDeadlock
from gpumand.domain.events import LeaseDegraded, LeaseEnded, LeaseReturned, LeaseYielded
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import drop_model, residency, routed

LONG = AcquireOptions(timeout_sec=3600)
CONNECTION = AcquireOptions(timeout_sec=3600, lifetime=LeaseLifetime.CONNECTION)


def make_world(**settings: object) -> FakeWorld:
    """Consumers a and b exclude each other; small fits beside either of them."""
    return FakeWorld(
        [routed("a", 14000), routed("b", 14000), routed("small", 2000)],
        scheduler=SchedulerSettings(**settings),  # type: ignore[arg-type]
    )


@pytest.fixture(params=list(Policy))
async def world(request: pytest.FixtureRequest) -> FakeWorld:
    made = make_world(policy=request.param)
    await made.start()
    return made


async def acquire(world: FakeWorld, number: int, name: str, options: AcquireOptions = CONNECTION) -> Lease:
    return (await world.arbiter.acquire(client(number), name, options)).lease


def within(*leases: Lease, **more: object) -> AcquireOptions:
    return AcquireOptions(timeout_sec=3600, within=tuple(one.id for one in leases), **more)  # type: ignore[arg-type]


def yielding(lease: Lease, **more: object) -> AcquireOptions:
    return AcquireOptions(timeout_sec=3600, yield_lease=lease.id, **more)  # type: ignore[arg-type]


# -- requests that wait for themselves ---------------------------------------------------------------------------------


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

    nested = await asyncio.wait_for(world.arbiter.acquire(client(3), "small", within(outer)), 5)

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
