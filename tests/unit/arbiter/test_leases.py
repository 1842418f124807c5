"""The ends of leases, and their restoration after a restart."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import SchedulerSettings, UnitActivity
from gpumand.domain.errors import InvalidArgs, NoSuchLease, ShuttingDown
from gpumand.domain.events import LeaseEnded
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

CONNECTION = AcquireOptions(lifetime=LeaseLifetime.CONNECTION, timeout_sec=60)
UNIT = AcquireOptions(lifetime=LeaseLifetime.UNIT, timeout_sec=60)


@pytest.fixture
def world() -> FakeWorld:
    made = FakeWorld([routed("a", 3000), routed("b", 3000)], scheduler=SchedulerSettings(concurrent_leases=0))
    made.units.units["worker.service"] = FakeUnit("worker.service", UnitActivity.ACTIVE, invocation=1)
    return made


def ends(world: FakeWorld) -> list[LeaseEnd]:
    return [event.reason for event in world.events if isinstance(event, LeaseEnded)]


def in_worker(number: int = 1, run: int = 1):  # type: ignore[no-untyped-def]
    return client(number, unit="worker.service", invocation_id=f"{run:032x}")


async def test_connection_lease_ends_when_its_owner_disconnects(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", CONNECTION)
    await world.arbiter.acquire(client(2), "a", CONNECTION)

    await world.arbiter.owner_vanished(":1.1")

    assert [lease.owner.bus_name for lease in world.arbiter.status().leases] == [":1.2"]
    assert ends(world) == [LeaseEnd.OWNER_VANISHED]


async def test_ttl_lease_survives_its_connection_and_expires_in_time(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=100))
    await world.arbiter.owner_vanished(":1.1")

    await world.clock.sleep(99)
    assert world.arbiter.lease(grant.lease.id)
    await world.clock.sleep(1.1)
    with pytest.raises(NoSuchLease):
        world.arbiter.lease(grant.lease.id)
    assert ends(world) == [LeaseEnd.EXPIRED]
    housekeeping.cancel()


async def test_shorter_lease_expires_in_time(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=29))
    await world.clock.sleep(0.5)
    await world.arbiter.acquire(client(2), "a", AcquireOptions(ttl_sec=2))
    await world.clock.sleep(2.1)
    assert [lease.owner.bus_name for lease in world.arbiter.status().leases] == [":1.1"]
    housekeeping.cancel()


async def test_shorter_lease_expires_in_time_after_the_wall_clock_was_set_forward(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=29))
    await world.clock.sleep(0.5)
    world.clock.step_realtime(3600.0)
    await world.arbiter.acquire(client(2), "a", AcquireOptions(ttl_sec=2))
    await world.clock.sleep(2.1)
    assert world.arbiter.status().leases == ()
    housekeeping.cancel()


async def test_short_lived_leases_do_not_wake_the_expiry_loop(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(0.5)
    for number in range(3):
        grant = await world.arbiter.acquire(client(number), "a", AcquireOptions(ttl_sec=900))
        assert not world.arbiter.leases.expiry_moved.is_set()
        await world.arbiter.release(grant.lease.id)
    housekeeping.cancel()


async def test_renewal_counts_from_now(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=100))
    await world.clock.sleep(90)

    renewed = await world.arbiter.renew(grant.lease.id, None)
    assert renewed.expires_usec == world.clock.realtime_usec() + 100_000_000
    await world.clock.sleep(90)
    assert world.arbiter.lease(grant.lease.id) == renewed == world.store.leases[grant.lease.id]
    housekeeping.cancel()


async def test_only_ttl_leases_can_be_renewed(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", CONNECTION)

    with pytest.raises(InvalidArgs, match="connection"):
        await world.arbiter.renew(grant.lease.id, 5.0)
    with pytest.raises(NoSuchLease):
        await world.arbiter.renew("0" * 20, None)


async def test_expired_leases_end_when_the_clock_jumps_forward(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=3600))

    world.clock.step_realtime(7200)
    await world.clock.sleep(31)

    assert ends(world) == [LeaseEnd.EXPIRED]
    housekeeping.cancel()


async def test_unit_lease_ends_with_its_unit(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(in_worker(), "a", UNIT)

    world.units.become("worker.service", UnitActivity.DEACTIVATING)
    assert ends(world) == [], "the unit still runs"
    world.units.become("worker.service", UnitActivity.INACTIVE)
    assert ends(world) == [LeaseEnd.UNIT_STOPPED]


async def test_restarted_unit_does_not_keep_the_lease_of_its_last_run(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(in_worker(run=1), "a", UNIT)

    world.units.units["worker.service"].invocation = 1
    world.units.become("worker.service", UnitActivity.ACTIVATING)
    world.units.become("worker.service", UnitActivity.ACTIVE)  # invocation 2

    assert ends(world) == [LeaseEnd.UNIT_STOPPED]


async def test_unit_that_ended_during_its_grant_gets_no_lease(world: FakeWorld) -> None:
    await world.start()
    world.units.units["worker.service"].activity = UnitActivity.INACTIVE  # it is not watched yet

    with pytest.raises(NoSuchLease, match="before it was granted"):
        await world.arbiter.acquire(in_worker(), "a", UNIT)

    assert ends(world) == [LeaseEnd.UNIT_STOPPED]
    assert world.arbiter.status().leases == ()


async def test_second_release_is_an_error(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.release(grant.lease.id)

    with pytest.raises(NoSuchLease):
        await world.arbiter.release(grant.lease.id)
    assert world.store.leases == {}


async def test_client_that_disconnects_during_the_write_leaves_no_lease(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.load("a", "", 60.0)
    world.store.stall()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(1), "a", AcquireOptions()))
    await world.clock.advance_until(lambda: bool(world.arbiter.status().leases))
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    world.store.resume()
    await world.arbiter.leases.flush()

    assert world.arbiter.status().leases == ()
    assert world.store.leases == {}


# -- restarts of the daemon --------------------------------------------------------------------------------------------


async def test_leases_of_existing_owners_are_restored_with_the_same_id(world: FakeWorld) -> None:
    await world.start()
    ids = {
        (await world.arbiter.acquire(client(1), "a", CONNECTION)).lease.id,
        (await world.arbiter.acquire(client(2), "b", AcquireOptions())).lease.id,
        (await world.arbiter.acquire(in_worker(3), "b", UNIT)).lease.id,
    }

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    again.units.units["worker.service"] = world.units.units["worker.service"]
    await again.start()

    assert {lease.id for lease in again.arbiter.status().leases} == ids
    assert again.owners.watched == [":1.1"], "its disconnect must be noticed"
    await again.arbiter.owner_vanished(":1.1")
    assert len(again.arbiter.status().leases) == 2


async def test_leases_of_vanished_owners_are_not_restored(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", CONNECTION)
    await world.arbiter.acquire(in_worker(3), "b", UNIT)
    await world.arbiter.acquire(client(2), "b", AcquireOptions(ttl_sec=10))
    await world.clock.sleep(11)

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    again.units.units["worker.service"] = FakeUnit("worker.service", UnitActivity.ACTIVE, invocation=2)
    again.owners.gone.add(":1.1")
    await again.start()

    assert again.arbiter.status().leases == ()
    assert world.store.leases == {}


async def test_unit_lease_is_restored_when_systemd_cannot_be_asked(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(in_worker(3), "b", UNIT)

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    again.units.unavailable = True
    await again.start()

    assert len(again.arbiter.status().leases) == 1


async def test_last_use_and_pins_survive_a_restart(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    await world.arbiter.pin("b", pinned=True)
    await world.arbiter.leases.save_last_uses()  # housekeeping does this after each reading
    used = world.arbiter.consumer_status("a").last_used_usec

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    await again.start()

    assert again.arbiter.consumer_status("a").last_used_usec == used > 0
    assert again.arbiter.consumer_status("b").pinned


async def test_residency_after_a_restart_is_observed_not_restored(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    again.routes.place("b", 3000)
    await again.start()

    assert again.arbiter.consumer_status("a").residency == "unloaded", "its process ended and freed its memory"
    assert again.arbiter.consumer_status("b").residency == "resident"


async def test_stopping_keeps_leases_on_disk(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.stop("stopping")

    assert list(world.store.leases) == [grant.lease.id]
    assert ends(world) == []
    with pytest.raises(ShuttingDown):
        await world.arbiter.load("b", "", 5.0)
