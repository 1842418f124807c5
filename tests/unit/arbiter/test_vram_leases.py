"""Leases without a consumer: they make room, count once, and end like every lease."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.errors import (
    Busy,
    InsufficientVram,
    InvalidArgs,
    LimitsExceeded,
    NoSuchConsumer,
    NoSuchDevice,
    NoSuchLease,
    TimedOut,
)
from gpumand.domain.events import ConsumersChanged, EvictionOccurred, LeaseEnded, RequestGranted, RequestRefused
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, residency, routed
from tests.unit.arbiter.reservation_setup import (
    ALL,
    SHARED,
    TOTAL_MIB,
    foreign_mib,
    load,
    pid_of,
    read,
    reserved_mib,
    two_consumers,
    vram,
)


@pytest.fixture
def world() -> FakeWorld:
    return two_consumers()


# -- making room -----------------------------------------------------------------------------------------------------


async def test_reservation_that_fits_is_granted_without_an_eviction(world: FakeWorld) -> None:
    await world.start()
    await load(world, "a")

    grant = await world.arbiter.acquire(client(1), "", vram(12000))

    assert (grant.evicted, grant.loaded, grant.lease.public_consumer, grant.lease.device) == ((), False, "", "0")
    assert residency(world, "a") == "resident"
    assert reserved_mib(world) == 12000


async def test_reservation_evicts_the_least_recently_used_consumer(world: FakeWorld) -> None:
    await world.start()
    for name in ("a", "b"):
        used = await world.arbiter.acquire(client(1), name, AcquireOptions())
        await world.arbiter.release(used.lease.id)

    grant = await world.arbiter.acquire(client(1), "", vram(12000))

    assert grant.evicted == ("a",)
    assert residency(world, "b") == "resident"
    (eviction,) = [event.report for event in world.events if isinstance(event, EvictionOccurred)]
    assert eviction.trigger == "reservation"


async def test_reserved_memory_is_not_given_to_a_consumer(world: FakeWorld) -> None:
    await world.start()
    held = await world.arbiter.acquire(client(1), "", vram(16000))

    with pytest.raises(TimedOut, match="reservation"):
        await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=5))
    await world.arbiter.release(held.lease.id)
    assert (await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=5))).loaded


async def test_reservation_waits_for_a_leased_consumer_and_takes_its_memory_after_that(world: FakeWorld) -> None:
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "", vram(20000)))
    await world.clock.sleep(1)
    assert not waiting.done()

    await world.arbiter.release(lease.id)

    assert (await waiting).evicted == ("a",)


async def test_consumer_waits_for_memory_that_the_program_of_a_reservation_holds(world: FakeWorld) -> None:
    await world.start()
    held = await world.arbiter.acquire(client(1), "", vram(20000))
    world.vram.hold(pid_of(1), 20000)
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(1)
    assert not waiting.done(), "the lease ends some day, so that the request waits and is not refused"

    world.vram.release(pid_of(1))
    await world.arbiter.release(held.lease.id)

    assert (await waiting).loaded


async def test_two_reservations_that_do_not_fit_together_wait_for_each_other(world: FakeWorld) -> None:
    await world.start()
    first = await world.arbiter.acquire(client(1), "", vram(14000))
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "", vram(14000)))
    await world.clock.sleep(1)
    assert not waiting.done()
    (queued,) = world.arbiter.status().queue
    assert (queued.consumer, queued.vram_mib) == ("", 14000)
    assert "reserved for reservation" in queued.waiting_for

    await world.arbiter.release(first.lease.id)
    assert (await waiting).lease.device == "0"


async def test_reservation_larger_than_the_device_is_refused_at_once(world: FakeWorld) -> None:
    await world.start()
    with pytest.raises(InsufficientVram, match=r"Reserve less, or the whole device"):
        await world.arbiter.acquire(client(1), "", vram(TOTAL_MIB))


async def test_reservation_with_foreign_memory_in_the_way_is_refused_and_names_it(world: FakeWorld) -> None:
    hold_foreign_memory(world, 20000)
    await world.start()
    with pytest.raises(InsufficientVram, match="firefox"):
        await world.arbiter.acquire(client(1), "", vram(8000))


async def test_nothing_evicts_a_reservation_even_when_its_program_holds_memory(world: FakeWorld) -> None:
    await world.start()
    held = await world.arbiter.acquire(client(1), "", vram(16000))
    world.vram.hold(pid_of(1), 16000)
    await read(world)

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=5, priority=100))

    assert world.arbiter.lease(held.lease.id)
    assert not [event for event in world.events if isinstance(event, EvictionOccurred)]


async def test_reservation_takes_the_only_slot_where_one_lease_is_allowed_at_a_time() -> None:
    world = FakeWorld([routed("a", 3000)], scheduler=SchedulerSettings(concurrent_leases=1))
    await world.start()
    await load(world, "a")
    await world.arbiter.acquire(client(1), "", vram(3000))
    with pytest.raises(Busy):
        await world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=0))


async def test_reservation_without_a_wait_is_refused_when_it_needs_an_eviction(world: FakeWorld) -> None:
    await world.start()
    await load(world, "a", "b")
    with pytest.raises(Busy):
        await world.arbiter.acquire(client(1), "", vram(12000, timeout_sec=0))
    assert (await world.arbiter.acquire(client(1), "", vram(4000, timeout_sec=0))).evicted == ()


async def test_later_reservation_does_not_overtake_an_earlier_request_that_needs_the_memory(world: FakeWorld) -> None:
    world = FakeWorld([routed("a", 10000)], scheduler=SchedulerSettings(concurrent_leases=0, policy=Policy.ADAPTIVE))
    await world.start()
    first = await world.arbiter.acquire(client(1), "", vram(16000))
    early = asyncio.create_task(world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(1)
    late = asyncio.create_task(world.arbiter.acquire(client(3), "", vram(6000)))
    await world.clock.sleep(1)
    assert not late.done()

    await world.arbiter.release(first.lease.id)
    assert (await early).loaded
    assert (await late).lease.id


async def test_reservation_on_a_chosen_device_and_on_several() -> None:
    world = FakeWorld([], scheduler=SHARED, total_mib=(24564, 24564))
    await world.start()

    second = await world.arbiter.acquire(client(1), "", vram(5000, device="1"))
    both = await world.arbiter.acquire(client(2), "", vram(4000, device="0,1"))

    assert (second.lease.device, both.lease.device) == ("1", "0,1")
    assert (reserved_mib(world, 0), reserved_mib(world, 1)) == (4000, 9000)
    with pytest.raises(NoSuchDevice):
        await world.arbiter.acquire(client(3), "", vram(4000, device="7"))


# -- lifetimes, limits, rights ---------------------------------------------------------------------------------------


async def test_reservation_ends_when_its_owner_disconnects_and_the_next_request_is_served(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", vram(20000))
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "a", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(1)

    await world.arbiter.owner_vanished(":1.1")

    assert (await waiting).loaded
    (end,) = [event for event in world.events if isinstance(event, LeaseEnded)]
    assert (end.reason, end.lease.public_consumer) == (LeaseEnd.OWNER_VANISHED, "")


async def test_owner_that_disconnects_while_it_waits_leaves_nothing_behind(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "", vram(20000)))
    await world.clock.sleep(1)

    await world.arbiter.owner_vanished(":1.2")
    await asyncio.gather(waiting, return_exceptions=True)

    assert set(world.arbiter.state.ledger.consumers) == {"a", "b"}
    assert reserved_mib(world) == 0


async def test_request_that_leaves_during_its_evictions_leaves_no_reservation_behind(world: FakeWorld) -> None:
    await world.start()
    await load(world, "a", "b")
    world.routes.consumer("a").unload_sec = 5.0
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "", vram(22000)))
    await world.clock.sleep(1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)

    await world.clock.sleep(30)

    assert set(world.arbiter.state.ledger.consumers) == {"a", "b"}
    assert world.arbiter.state.ledger.jobs == {}


async def test_ttl_reservation_expires_and_can_be_renewed(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(1), "", vram(3000, lifetime=LeaseLifetime.TTL, ttl_sec=100))
    await world.clock.sleep(90)
    await world.arbiter.renew(grant.lease.id, None)
    await world.clock.sleep(90)
    assert world.arbiter.lease(grant.lease.id)
    await world.clock.sleep(11)
    with pytest.raises(NoSuchLease):
        world.arbiter.lease(grant.lease.id)
    assert reserved_mib(world) == 0
    housekeeping.cancel()


async def test_reservations_count_towards_the_lease_limit_of_a_user(world: FakeWorld) -> None:
    await world.start()
    for number in range(64):
        await world.arbiter.acquire(client(number), "", vram(10))
    with pytest.raises(LimitsExceeded):
        await world.arbiter.acquire(client(99), "", vram(10))
    assert (await world.arbiter.acquire(client(99, uid=7), "", vram(10))).lease.id


async def test_same_token_yields_the_same_reservation(world: FakeWorld) -> None:
    await world.start()
    first = await world.arbiter.acquire(client(1), "", vram(3000, token="t"))
    second = await world.arbiter.acquire(client(1), "", vram(3000, token="t"))
    assert first.lease.id == second.lease.id
    assert reserved_mib(world) == 3000
    with pytest.raises(InvalidArgs, match="token"):
        await world.arbiter.acquire(client(1), "", vram(4000, token="t"))
    with pytest.raises(InvalidArgs, match="token"):
        await world.arbiter.acquire(client(1), "a", AcquireOptions(lifetime=LeaseLifetime.CONNECTION, token="t"))


async def test_amount_is_required_without_a_consumer_and_refused_with_one(world: FakeWorld) -> None:
    await world.start()
    for consumer, options in (
        ("", AcquireOptions()),
        ("a", vram(100)),
        ("a", ALL),
        ("", AcquireOptions(vram_mib=100, whole_device=True)),
    ):
        with pytest.raises(InvalidArgs):
            await world.arbiter.acquire(client(1), consumer, options)
        with pytest.raises(InvalidArgs):
            await world.arbiter.plan(client(1), consumer, options)
    assert world.arbiter.status().stats.refusals == 4


async def test_name_of_a_reservation_is_no_consumer_for_clients(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "", vram(3000))
    name = grant.lease.consumer
    with pytest.raises(NoSuchConsumer):
        await world.arbiter.acquire(client(2), name, AcquireOptions())
    with pytest.raises(NoSuchConsumer):
        await world.arbiter.evict(name, True, 1)
    with pytest.raises(NoSuchConsumer):
        await world.arbiter.load(name, "", 1)
    with pytest.raises(NoSuchConsumer):
        await world.arbiter.pin(name, True)
    with pytest.raises(NoSuchConsumer):
        world.arbiter.consumer_status(name)


async def test_reservation_is_announced_as_a_lease_and_not_as_a_consumer(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "", vram(3000))
    with pytest.raises(InsufficientVram):
        await world.arbiter.acquire(client(1), "", vram(TOTAL_MIB))
    await world.arbiter.release(grant.lease.id)

    assert [one.name for one in world.arbiter.status().consumers] == ["a", "b"]
    changed = [event.names for event in world.events if isinstance(event, ConsumersChanged)]
    assert frozenset().union(*changed) <= {"a", "b"}
    assert [event.consumer for event in world.events if isinstance(event, RequestGranted | RequestRefused)] == ["", ""]


# -- restarts and reloads --------------------------------------------------------------------------------------------


async def test_reservation_survives_a_restart_with_its_program(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "", vram(12000))

    after = FakeWorld([routed("a", 10000)], scheduler=SHARED, store=world.store, clock=world.clock)
    after.vram.hold(pid_of(1), 5000)
    await after.start()

    assert after.arbiter.lease(grant.lease.id).reservation == grant.lease.reservation
    assert (reserved_mib(after), foreign_mib(after)) == (7000, 0)
    with pytest.raises(TimedOut):
        await after.arbiter.acquire(client(2), "", vram(14000, timeout_sec=5))
    await after.arbiter.owner_vanished(":1.1")
    assert set(after.arbiter.state.ledger.consumers) == {"a"}


async def test_reservation_whose_owner_left_during_a_restart_is_not_restored(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", vram(12000))
    after = FakeWorld([routed("a", 10000)], scheduler=SHARED, store=world.store, clock=world.clock)
    after.owners.gone.add(":1.1")
    await after.start()
    assert after.arbiter.status().leases == ()
    assert reserved_mib(after) == 0
    assert after.store.leases == {}


async def test_reservation_and_its_waiting_successor_survive_a_reload(world: FakeWorld) -> None:
    await world.start()
    held = await world.arbiter.acquire(client(1), "", vram(14000))
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "", vram(14000)))
    await world.clock.sleep(1)
    await world.arbiter.reload()
    assert not waiting.done()
    await world.arbiter.release(held.lease.id)
    assert (await waiting).lease.id


# -- plans -----------------------------------------------------------------------------------------------------------


async def test_plan_says_what_would_be_evicted_and_changes_nothing(world: FakeWorld) -> None:
    await world.start()
    await load(world, "a", "b")
    report = await world.arbiter.plan(client(1), "", vram(12000))
    assert (report.consumer, report.verdict, report.load, report.resident) == ("", "grant", False, False)
    assert [eviction.consumer for eviction in report.evictions] == ["a"]
    assert set(world.arbiter.state.ledger.consumers) == {"a", "b"}
    assert residency(world, "a") == "resident"
