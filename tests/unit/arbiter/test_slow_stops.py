"""Evictions that take long: units whose stop exceeds its limit, and unloads that wait for running requests."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.errors import EvictionFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, ooms, reports, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
LIMIT_SEC, STOP_SEC = 5.0, 12.0


class SlowUnits(FakeWorld):
    """A world in which the unit of llm goes on stopping after the limit of its stop."""

    async def begin(self) -> None:
        """Start, with llm resident and not leased."""
        self.vram.read_sec = READ_SEC
        await self.start()
        await self.arbiter.watch_units()
        self.arbiter.scheduler.background.spawn(self.housekeeping.run())
        lease = (await self.arbiter.acquire(client(), "llm", AcquireOptions())).lease.id
        await self.arbiter.release(lease)
        self.units.units["llm.service"].stop_delay_sec = STOP_SEC
        self.arbiter.scheduler.background.spawn(self._end_stop())

    async def _end_stop(self) -> None:
        unit = self.units.units["llm.service"]
        while unit.activity is not UnitActivity.DEACTIVATING:
            await self.clock.sleep(0.1)
        await self.clock.sleep(STOP_SEC)
        unit.stop_delay_sec = 0.0
        self.units.become("llm.service", UnitActivity.INACTIVE)


def slow(**others: int) -> SlowUnits:
    specs = [by_unit("llm", 14000, stop_timeout_sec=LIMIT_SEC), *(by_unit(name, mib) for name, mib in others.items())]
    return SlowUnits(specs, scheduler=SchedulerSettings(concurrent_leases=0, min_turn_sec=0))


async def test_request_waits_for_a_stop_that_goes_on() -> None:
    world = slow(image=14000)
    await world.begin()
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(2), "image", AcquireOptions(timeout_sec=20))

    assert world.clock.monotonic() - began >= STOP_SEC
    assert ooms(world) == 0


async def test_no_lease_is_granted_on_a_unit_that_goes_on_stopping() -> None:
    world = slow()
    await world.begin()
    evicting = asyncio.create_task(world.arbiter.evict("llm", False, 20.0))
    await world.clock.sleep(1.0)
    acquiring = asyncio.create_task(world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=60)))
    [result] = await asyncio.gather(evicting, return_exceptions=True)
    assert isinstance(result, EvictionFailed)
    assert "did not stop within 5 s" in str(result)
    assert residency(world, "llm") == "unloading"
    assert not acquiring.done()

    assert (await acquiring).loaded, "it is started again when it has stopped"


async def test_another_consumer_is_evicted_instead_of_waiting() -> None:
    world = slow(image=9000, voice=9000)
    await world.begin()
    await world.arbiter.release((await world.arbiter.acquire(client(3), "voice", AcquireOptions())).lease.id)
    began = world.clock.monotonic()

    grant = await world.arbiter.acquire(client(2), "image", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("voice",)
    assert world.clock.monotonic() - began < STOP_SEC


@pytest.mark.parametrize(("clients", "at_least_sec", "at_most_sec"), [(1, 60.0, 75.0), (0, 10.0, 15.0)])
async def test_clients_that_stay_connected_delay_the_stop_of_a_unit_by_the_grace_period(
    clients: int, at_least_sec: float, at_most_sec: float
) -> None:
    liar = routed("liar", 13000, unit="liar.service", evict=BOTH)
    world = FakeWorld([liar, routed("b", 13000)], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    world.units.become("liar.service", UnitActivity.ACTIVE)
    server = world.routes.place("liar", 13000)
    server.lies, server.jobs = True, clients
    world.units.units["liar.service"].stopped = lambda: world.routes.die("liar")
    await world.start()
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=120))

    assert at_least_sec <= world.clock.monotonic() - began <= at_most_sec
    assert [(one.consumer, one.method) for one in reports(world)] == [("liar", "unit-stop")]


async def test_forced_eviction_does_not_wait_for_the_clients_of_its_consumer() -> None:
    liar = routed("liar", 13000, unit="liar.service", evict=BOTH)
    world = FakeWorld([liar])
    world.vram.read_sec = READ_SEC
    world.units.become("liar.service", UnitActivity.ACTIVE)
    server = world.routes.place("liar", 13000)
    server.lies, server.jobs = True, 1
    world.units.units["liar.service"].stopped = lambda: world.routes.die("liar")
    await world.start()
    began = world.clock.monotonic()

    assert (await world.arbiter.evict("liar", True, 20.0)).method == "unit-stop"

    assert world.clock.monotonic() - began < 15.0


async def test_unload_that_was_waited_for_longer_says_so() -> None:
    world = FakeWorld([routed("liar", 13000)])
    world.vram.read_sec = READ_SEC
    server = world.routes.place("liar", 13000)
    server.lies, server.jobs = True, 1
    await world.start()

    with pytest.raises(EvictionFailed, match=r"0 of 13000 MiB became free within (59|60|61) s"):
        await world.arbiter.evict("liar", False, 20.0)
