"""Leases and the disk: what stands is kept, what is kept stands, and a token leads to one lease."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable

import pytest

from gpumand.domain.consumer import SchedulerSettings, UnitActivity
from gpumand.domain.errors import HostError, InvalidArgs, NoSuchLease
from gpumand.domain.events import Event, LeaseEnded, LeaseGranted, LeaseRenewed
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, routed

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
async def world() -> FakeWorld:
    """One consumer, resident."""
    made = FakeWorld([routed("a", 5000)], scheduler=SchedulerSettings(concurrent_leases=0))
    made.vram.read_sec = READ_SEC
    made.routes.place("a", 5000)
    await made.start()
    return made


def standing(world: FakeWorld) -> set[str]:
    return {lease.id for lease in world.arbiter.status().leases}


def told(world: FakeWorld) -> list[str]:
    return [type(event).__name__ for event in world.events if isinstance(event, LeaseGranted | LeaseEnded)]


def revoke(world: FakeWorld) -> None:
    """As an eviction by force does."""
    assert world.arbiter.leases.end_all(lambda lease: True, LeaseEnd.REVOKED) == 1


def once_granted(world: FakeWorld, act: Callable[[], object]) -> list[bool]:
    """Have something done when the first lease stands and its client's task has yet to wake.

    Returns what says, when all is over, whether the lease was on disk at that moment.
    """
    publish, on_disk = world.arbiter.arbiter_state.publish, list[bool]()

    def interfere() -> None:
        on_disk.append(bool(world.store.leases))
        act()

    def watch(event: Event) -> None:
        publish(event)
        if world.arbiter.arbiter_state.ledger.leases:
            world.arbiter.arbiter_state.publish = publish
            asyncio.get_running_loop().call_soon(interfere)

    world.arbiter.arbiter_state.publish = watch
    return on_disk


# -- revoked before it was handed out ----------------------------------------------------------------------------------


async def test_a_lease_revoked_while_it_is_written_is_not_handed_out(world: FakeWorld) -> None:
    world.store.stall()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "a", AcquireOptions()))
    await world.clock.settle()
    revoke(world)
    world.store.resume()

    with pytest.raises(NoSuchLease, match="the lease on a ended before it was handed out"):
        await acquiring

    await world.clock.settle()
    assert (standing(world), world.store.leases) == (set(), {})
    assert told(world) == [], "nobody hears of a lease that nobody got"
    assert world.arbiter.status().stats.grants == 0


async def test_a_lease_revoked_before_it_is_written_leaves_nothing_on_disk() -> None:
    world = FakeWorld([routed("a", 5000)])
    world.vram.read_sec = READ_SEC
    await world.start()
    on_disk = once_granted(world, lambda: revoke(world))  # granted by the job that loaded it

    with pytest.raises(NoSuchLease):
        await world.arbiter.acquire(client(), "a", AcquireOptions())

    await world.clock.settle()
    assert on_disk == [False]
    assert (standing(world), world.store.leases, told(world)) == (set(), {}, [])
    again = FakeWorld([routed("a", 5000)], store=world.store, clock=world.clock)
    await again.start()
    assert standing(again) == set()


async def test_a_lease_that_ends_after_it_was_handed_out_is_told_of(world: FakeWorld) -> None:
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    await world.arbiter.evict("a", True, 20.0)

    await world.clock.settle()
    assert told(world) == ["LeaseGranted", "LeaseEnded"]
    assert world.store.leases == {}


# -- a full disk -------------------------------------------------------------------------------------------------------


async def test_a_token_asked_for_again_while_the_disk_is_full_has_one_named_error(world: FakeWorld) -> None:
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))
    world.store.error = FULL

    with pytest.raises(HostError, match="No space left"):
        await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))

    world.store.error = None
    assert (await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))).lease.id == grant.lease.id


async def test_a_renewal_that_cannot_be_kept_changes_nothing(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=10))).lease
    world.store.error = FULL

    with pytest.raises(HostError, match="No space left"):
        await world.arbiter.renew(lease.id, 5000)

    assert world.arbiter.lease(lease.id).expires_usec == lease.expires_usec
    assert not world.named(LeaseRenewed)


async def test_a_lease_that_ends_while_its_renewal_is_written_does_not_come_back(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=100))).lease
    world.store.stall()
    renewing = asyncio.create_task(world.arbiter.renew(lease.id, 5000))
    await world.clock.settle()
    releasing = asyncio.create_task(world.arbiter.release(lease.id))
    await world.clock.settle()
    world.store.resume()

    with pytest.raises(NoSuchLease):
        await renewing
    await releasing
    await world.clock.settle()
    assert (standing(world), world.store.leases) == (set(), {})


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_a_token_leads_to_its_lease_also_when_the_callers_unit_became_known_meanwhile() -> None:
    world = FakeWorld([routed("a", 5000)], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    await world.start()
    options = AcquireOptions(token="t")
    first = asyncio.create_task(world.arbiter.acquire(client(1), "a", options))
    await world.clock.settle()
    second = asyncio.create_task(world.arbiter.acquire(client(2, unit="user@1000.service"), "a", options))

    assert (await first).lease.id == (await second).lease.id
    assert len(standing(world)) == 1


async def test_a_token_of_another_user_or_of_a_units_run_is_another_lease(world: FakeWorld) -> None:
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    job = client(3, unit="job.service", invocation_id=f"{1:032x}")
    ttl, unit = AcquireOptions(token="t"), AcquireOptions(LeaseLifetime.UNIT, token="t")
    asked = [(client(1), ttl), (client(1, uid=1001), ttl), (job, unit), (job, unit)]
    leases = [(await world.arbiter.acquire(owner, "a", options)).lease.id for owner, options in asked]

    assert leases[2] == leases[3]
    assert len(set(leases)) == 3


async def test_a_token_whose_lease_has_ended_leads_to_a_new_one(world: FakeWorld) -> None:
    first = (await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))).lease
    await world.arbiter.release(first.id)

    second = (await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))).lease

    assert standing(world) == {second.id}
    assert first.id != second.id


async def test_a_token_used_for_another_consumer_is_refused_also_while_that_request_waits() -> None:
    world = FakeWorld([routed("a", 5000), routed("b", 5000)])
    world.vram.read_sec = READ_SEC
    await world.start()
    waiting = asyncio.create_task(world.arbiter.acquire(client(), "a", AcquireOptions(token="t")))
    await world.clock.settle()

    with pytest.raises(InvalidArgs, match="used for a, not for b"):
        await world.arbiter.acquire(client(), "b", AcquireOptions(token="t"))
    assert (await waiting).lease.consumer == "a"
