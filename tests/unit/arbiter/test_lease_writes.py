"""Leases on disk: active leases are saved, saved leases are active, and a token identifies one lease."""

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
    """A world with one resident consumer."""
    made = FakeWorld([routed("a", 5000)], scheduler=SchedulerSettings(concurrent_leases=0))
    made.vram.read_sec = READ_SEC
    made.routes.place("a", 5000)
    await made.start()
    return made


def active_leases(world: FakeWorld) -> set[str]:
    return {lease.id for lease in world.arbiter.status().leases}


def announced(world: FakeWorld) -> list[str]:
    return [type(event).__name__ for event in world.events if isinstance(event, LeaseGranted | LeaseEnded)]


def revoke(world: FakeWorld) -> None:
    """Revoke all leases, as a forced eviction does."""
    assert world.arbiter.leases.end_all(lambda lease: True, LeaseEnd.REVOKED) == 1


def act_after_first_grant(world: FakeWorld, action: Callable[[], object]) -> list[bool]:
    """Run an action when the first lease is created, before the task of its client continues.

    Returns a list that later holds whether the lease was on disk at that moment.
    """
    publish, on_disk = world.arbiter.state.publish, list[bool]()

    def run_action() -> None:
        on_disk.append(bool(world.store.leases))
        action()

    def watch(event: Event) -> None:
        publish(event)
        if world.arbiter.state.ledger.leases:
            world.arbiter.state.publish = publish
            asyncio.get_running_loop().call_soon(run_action)

    world.arbiter.state.publish = watch
    return on_disk


# -- revoked before the grant ------------------------------------------------------------------------------------------


async def test_lease_revoked_during_its_write_is_not_granted(world: FakeWorld) -> None:
    world.store.stall()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "a", AcquireOptions()))
    await world.clock.settle()
    revoke(world)
    world.store.resume()

    with pytest.raises(NoSuchLease, match="the lease on a ended before it was granted"):
        await acquiring

    await world.clock.settle()
    assert (active_leases(world), world.store.leases) == (set(), {})
    assert announced(world) == [], "a lease that no client got is not announced"
    assert world.arbiter.status().stats.grants == 0


async def test_lease_revoked_before_its_write_leaves_nothing_on_disk() -> None:
    world = FakeWorld([routed("a", 5000)])
    world.vram.read_sec = READ_SEC
    await world.start()
    on_disk = act_after_first_grant(world, lambda: revoke(world))  # granted by the job that loaded it

    with pytest.raises(NoSuchLease):
        await world.arbiter.acquire(client(), "a", AcquireOptions())

    await world.clock.settle()
    assert on_disk == [False]
    assert (active_leases(world), world.store.leases, announced(world)) == (set(), {}, [])
    again = FakeWorld([routed("a", 5000)], store=world.store, clock=world.clock)
    await again.start()
    assert active_leases(again) == set()


async def test_end_of_a_granted_lease_is_announced(world: FakeWorld) -> None:
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    await world.arbiter.evict("a", True, 20.0)

    await world.clock.settle()
    assert announced(world) == ["LeaseGranted", "LeaseEnded"]
    assert world.store.leases == {}


# -- a full disk -------------------------------------------------------------------------------------------------------


async def test_repeated_token_on_a_full_disk_gets_one_specific_error(world: FakeWorld) -> None:
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))
    world.store.error = FULL

    with pytest.raises(HostError, match="No space left"):
        await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))

    world.store.error = None
    assert (await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))).lease.id == grant.lease.id


async def test_renewal_that_cannot_be_saved_changes_nothing(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=10))).lease
    world.store.error = FULL

    with pytest.raises(HostError, match="No space left"):
        await world.arbiter.renew(lease.id, 5000)

    assert world.arbiter.lease(lease.id).expires_usec == lease.expires_usec
    assert not world.named(LeaseRenewed)


async def test_lease_that_ends_during_its_renewal_stays_ended(world: FakeWorld) -> None:
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
    assert (active_leases(world), world.store.leases) == (set(), {})


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_token_finds_its_lease_when_the_unit_of_the_caller_became_known_later() -> None:
    world = FakeWorld([routed("a", 5000)], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    await world.start()
    options = AcquireOptions(token="t")
    first = asyncio.create_task(world.arbiter.acquire(client(1), "a", options))
    await world.clock.settle()
    second = asyncio.create_task(world.arbiter.acquire(client(2, unit="user@1000.service"), "a", options))

    assert (await first).lease.id == (await second).lease.id
    assert len(active_leases(world)) == 1


async def test_token_of_another_user_or_unit_run_gets_its_own_lease(world: FakeWorld) -> None:
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    job = client(3, unit="job.service", invocation_id=f"{1:032x}")
    ttl, unit = AcquireOptions(token="t"), AcquireOptions(LeaseLifetime.UNIT, token="t")
    asked = [(client(1), ttl), (client(1, uid=1001), ttl), (job, unit), (job, unit)]
    leases = [(await world.arbiter.acquire(owner, "a", options)).lease.id for owner, options in asked]

    assert leases[2] == leases[3]
    assert len(set(leases)) == 3


async def test_token_of_an_ended_lease_gets_a_new_lease(world: FakeWorld) -> None:
    first = (await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))).lease
    await world.arbiter.release(first.id)

    second = (await world.arbiter.acquire(client(), "a", AcquireOptions(token="t"))).lease

    assert active_leases(world) == {second.id}
    assert first.id != second.id


async def test_token_used_for_another_consumer_is_refused_even_while_that_request_waits() -> None:
    world = FakeWorld([routed("a", 5000), routed("b", 5000)])
    world.vram.read_sec = READ_SEC
    await world.start()
    waiting = asyncio.create_task(world.arbiter.acquire(client(), "a", AcquireOptions(token="t")))
    await world.clock.settle()

    with pytest.raises(InvalidArgs, match="used for a; use a new one for b"):
        await world.arbiter.acquire(client(), "b", AcquireOptions(token="t"))
    assert (await waiting).lease.consumer == "a"
