"""Leases without a consumer follow the processes of their program."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import UnitActivity
from gpumand.domain.errors import (
    TimedOut,
)
from gpumand.domain.events import EvictionOccurred
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.reservation_setup import (
    foreign_mib,
    pid_of,
    read,
    reserved_mib,
    two_consumers,
    vram,
)


@pytest.fixture
def world() -> FakeWorld:
    return two_consumers()


async def test_memory_of_the_program_and_its_children_counts_once(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", vram(12000))
    world.vram.parents = {71: pid_of(1), 72: 71}
    world.vram.hold(71, 3000)
    world.vram.hold(72, 5000)
    await read(world)

    status = world.arbiter.status()
    assert (status.devices[0].reserved_mib, status.devices[0].foreign_mib) == (4000, 0)
    assert status.devices[0].foreign == ()
    (lease,) = status.leases
    assert status.reserved_used_mib == {lease.id: 8000}
    assert (await world.arbiter.acquire(client(2), "b", AcquireOptions())).loaded, "12 GiB are free beside it"


async def test_memory_beyond_the_reservation_is_foreign(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", vram(12000))
    world.vram.hold(pid_of(1), 15000, name="python")
    await read(world)

    device = world.arbiter.status().devices[0]
    assert (device.reserved_mib, device.foreign_mib) == (0, 3000)
    assert [(process.pid, process.used_mib) for process in device.foreign] == [(pid_of(1), 3000)]


async def test_memory_of_another_program_is_foreign_in_addition_to_the_reservation(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", vram(12000))
    world.vram.hold(4242, 3000, name="game")
    await read(world)
    assert (reserved_mib(world), foreign_mib(world)) == (12000, 3000)


async def test_two_reservations_of_one_program_are_filled_one_after_the_other(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "", vram(4000))
    await world.arbiter.acquire(client(1), "", vram(4000))
    world.vram.hold(pid_of(1), 6000)
    await read(world)
    assert (reserved_mib(world), foreign_mib(world)) == (2000, 0)


async def test_memory_that_the_program_holds_already_need_not_be_free(world: FakeWorld) -> None:
    world.vram.hold(pid_of(1), 14000)
    await world.start()
    await world.clock.sleep(1)
    grant = await world.arbiter.acquire(client(1), "", vram(20000))
    assert grant.evicted == ()
    assert (reserved_mib(world), foreign_mib(world)) == (6000, 0)


async def test_program_that_waits_for_a_reservation_is_no_victim(world: FakeWorld) -> None:
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    world.vram.hold(pid_of(2), 6000)
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "", vram(18000)))
    await world.clock.sleep(1)
    assert not waiting.done()

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=5))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not [event for event in world.events if isinstance(event, EvictionOccurred)]


async def test_reservation_bound_to_a_unit_follows_the_processes_of_the_unit(world: FakeWorld) -> None:
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    await world.start()
    owner = client(1, unit="job.service", invocation_id=f"{1:032x}")
    await world.arbiter.acquire(owner, "", vram(8000, lifetime=LeaseLifetime.UNIT))
    world.vram.hold(99, 5000, unit="job.service")
    await read(world)
    assert (reserved_mib(world), foreign_mib(world)) == (3000, 0)

    await world.units.stop("job.service", 1.0)
    world.arbiter.record_unit(await world.units.state("job.service"))
    assert world.arbiter.status().leases == ()
    await read(world)
    assert (reserved_mib(world), foreign_mib(world)) == (0, 5000)
