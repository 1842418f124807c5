"""How leases end, and how they outlive the daemon."""

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


async def test_vanishing_owner_frees_lease(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", CONNECTION)
    await world.arbiter.acquire(client(2), "a", CONNECTION)

    await world.arbiter.owner_vanished(":1.1")

    assert [lease.owner.bus_name for lease in world.arbiter.status().leases] == [":1.2"]
    assert ends(world) == [LeaseEnd.OWNER_VANISHED]


async def test_a_ttl_lease_outlives_its_connection_and_ends_in_time(world: FakeWorld) -> None:
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


async def test_a_shorter_lease_is_not_slept_through(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=29))
    await world.clock.sleep(0.5)
    await world.arbiter.acquire(client(2), "a", AcquireOptions(ttl_sec=2))
    await world.clock.sleep(2.1)
    assert [lease.owner.bus_name for lease in world.arbiter.status().leases] == [":1.1"]
    housekeeping.cancel()


async def test_a_shorter_lease_is_not_slept_through_after_the_wall_clock_was_set_forward(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=29))
    await world.clock.sleep(0.5)
    world.clock.step_realtime(3600.0)
    await world.arbiter.acquire(client(2), "a", AcquireOptions(ttl_sec=2))
    await world.clock.sleep(2.1)
    assert world.arbiter.status().leases == ()
    housekeeping.cancel()


async def test_leases_that_come_and_go_wake_nobody_who_waits_for_their_end(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(0.5)
    for number in range(3):
        grant = await world.arbiter.acquire(client(number), "a", AcquireOptions(ttl_sec=900))
        assert not world.arbiter.leases.sooner.is_set()
        await world.arbiter.release(grant.lease.id)
    housekeeping.cancel()


async def test_renewing_counts_from_now(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=100))
    await world.clock.sleep(90)

    renewed = await world.arbiter.renew(grant.lease.id, None)
    assert renewed.expires_usec == world.clock.realtime_usec() + 100_000_000
    await world.clock.sleep(90)
    assert world.arbiter.lease(grant.lease.id) == renewed == world.store.leases[grant.lease.id]
    housekeeping.cancel()


async def test_only_ttl_leases_are_renewed(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", CONNECTION)

    with pytest.raises(InvalidArgs, match="connection"):
        await world.arbiter.renew(grant.lease.id, 5.0)
    with pytest.raises(NoSuchLease):
        await world.arbiter.renew("0" * 20, None)


async def test_a_clock_that_jumps_forward_ends_what_has_run_out(world: FakeWorld) -> None:
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(1), "a", AcquireOptions(ttl_sec=3600))

    world.clock.step_realtime(7200)
    await world.clock.sleep(31)

    assert ends(world) == [LeaseEnd.EXPIRED]
    housekeeping.cancel()


async def test_a_unit_lease_ends_with_its_unit(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(in_worker(), "a", UNIT)

    world.units.become("worker.service", UnitActivity.DEACTIVATING)
    assert ends(world) == [], "it still runs"
    world.units.become("worker.service", UnitActivity.INACTIVE)
    assert ends(world) == [LeaseEnd.UNIT_STOPPED]


async def test_a_restarted_unit_does_not_inherit_the_lease_of_its_last_run(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(in_worker(run=1), "a", UNIT)

    world.units.units["worker.service"].invocation = 1
    world.units.become("worker.service", UnitActivity.ACTIVATING)
    world.units.become("worker.service", UnitActivity.ACTIVE)  # invocation 2

    assert ends(world) == [LeaseEnd.UNIT_STOPPED]


async def test_a_unit_that_died_while_its_lease_was_given_holds_none(world: FakeWorld) -> None:
    await world.start()
    world.units.units["worker.service"].activity = UnitActivity.INACTIVE  # nobody watched it yet

    with pytest.raises(NoSuchLease, match="before it was handed out"):
        await world.arbiter.acquire(in_worker(), "a", UNIT)

    assert ends(world) == [LeaseEnd.UNIT_STOPPED]
    assert world.arbiter.status().leases == ()


async def test_releasing_twice_is_told(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.release(grant.lease.id)

    with pytest.raises(NoSuchLease):
        await world.arbiter.release(grant.lease.id)
    assert world.store.leases == {}


async def test_a_client_that_goes_while_its_lease_is_written_down_leaves_none(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.load("a", "", 60.0)
    world.store.stall()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(1), "a", AcquireOptions()))
    await world.clock.advance_until(lambda: bool(world.arbiter.status().leases))
    acquiring.cancel()
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    world.store.resume()
    await world.arbiter.leases.settle()

    assert world.arbiter.status().leases == ()
    assert world.store.leases == {}


# -- over the daemon's death -------------------------------------------------------------------------------------------


async def test_every_lease_whose_owner_lives_stands_after_a_restart_under_the_same_id(world: FakeWorld) -> None:
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
    assert again.owners.watched == [":1.1"], "its death must not be missed"
    await again.arbiter.owner_vanished(":1.1")
    assert len(again.arbiter.status().leases) == 2


async def test_leases_of_owners_that_died_meanwhile_are_gone_after_a_restart(world: FakeWorld) -> None:
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


async def test_not_being_able_to_ask_systemd_is_no_proof_that_a_unit_ended(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(in_worker(3), "b", UNIT)

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    again.units.unavailable = True
    await again.start()

    assert len(again.arbiter.status().leases) == 1


async def test_last_use_and_pins_are_kept_over_a_restart(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    await world.arbiter.pin("b", pinned=True)
    await world.arbiter.leases.keep_uses()  # upkeep does, after each reading
    used = world.arbiter.consumer_status("a").last_used_usec

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    await again.start()

    assert again.arbiter.consumer_status("a").last_used_usec == used > 0
    assert again.arbiter.consumer_status("b").pinned


async def test_residency_after_a_restart_is_what_is_seen_not_what_was(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())

    again = FakeWorld([routed("a", 3000), routed("b", 3000)], store=world.store, clock=world.clock)
    again.routes.place("b", 3000)
    await again.start()

    assert again.arbiter.consumer_status("a").residency == "unloaded", "its process died with its memory"
    assert again.arbiter.consumer_status("b").residency == "resident"


async def test_a_lease_is_not_lost_by_stopping(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    await world.arbiter.stop("stopping")

    assert list(world.store.leases) == [grant.lease.id]
    assert ends(world) == []
    with pytest.raises(ShuttingDown):
        await world.arbiter.load("b", "", 5.0)
