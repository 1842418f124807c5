"""Loads: what counts as one, who inherits one, and what a failed one leaves behind."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.errors import Busy, LoadFailed, TimedOut
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.ports import UnitFailed
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, drop_model, lazy, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def made(*specs: object, slots: int = 1) -> FakeWorld:
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=slots))  # type: ignore[arg-type]
    world.vram.read_sec = READ_SEC
    return world


# -- starts that nobody asked for --------------------------------------------------------------------------------------


async def test_a_start_that_never_ends_keeps_the_device_for_its_load_timeout_only() -> None:
    world = made(by_unit("stuck", 2000, load_timeout_sec=60.0), routed("b", 5000))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1.0)
    world.units.become("stuck.service", UnitActivity.ACTIVATING)
    await world.clock.sleep(1.0)

    grant = await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=7200))

    assert 50 <= grant.waited_usec / 1e6 <= 100
    housekeeping.cancel()


async def test_a_unit_that_crashes_and_begins_anew_is_not_loading_for_ever() -> None:
    world = made(by_unit("crashing", 2000, load_timeout_sec=60.0), routed("b", 5000))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1.0)

    async def crash_and_begin_anew() -> None:
        while True:
            world.units.become("crashing.service", UnitActivity.ACTIVATING)
            await world.clock.sleep(5.0)
            world.units.become("crashing.service", UnitActivity.FAILED, "exit-code")
            await world.clock.sleep(0.1)

    crashing = asyncio.create_task(crash_and_begin_anew())
    await world.clock.sleep(70.0)
    assert residency(world, "crashing") == "resident", "it has had its time, and may be evicted"
    grant = await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=7200))

    assert grant.waited_usec / 1e6 < 40
    crashing.cancel()
    housekeeping.cancel()


async def test_a_unit_that_came_to_rest_has_all_its_time_for_the_next_start() -> None:
    world = made(by_unit("llm", 2000, load_timeout_sec=60.0))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    for _ in range(3):
        await world.clock.sleep(30.0)
        world.units.become("llm.service", UnitActivity.ACTIVATING)
        await world.clock.sleep(50.0)
        assert residency(world, "llm") == "loading"
        world.units.become("llm.service", UnitActivity.INACTIVE)
    housekeeping.cancel()


# -- who inherits a load -----------------------------------------------------------------------------------------------


async def test_who_inherits_a_load_by_hand_gets_no_lease_beside_the_one_slot() -> None:
    world = made(routed("a", 5000), routed("b", 5000))
    world.routes.place("a", 5000)
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    loading = asyncio.create_task(world.arbiter.load("b", "", 1.0))
    await world.clock.sleep(0.5)
    acquiring = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=30)))
    with pytest.raises(TimedOut):
        await loading
    await world.clock.advance_until(lambda: residency(world, "b") == "resident")

    assert [one.consumer for one in world.arbiter.status().leases] == ["a"]
    assert not acquiring.done()
    await world.arbiter.release(lease.id)
    assert (await acquiring).lease.consumer == "b"
    assert world.routes.called("load") == ["b"]


async def test_who_inherits_a_load_by_hand_has_its_lease_at_once_where_slots_are_unlimited() -> None:
    world = made(routed("a", 5000), routed("b", 5000), slots=0)
    world.routes.place("a", 5000)
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    loading = asyncio.create_task(world.arbiter.load("b", "", 1.0))
    await world.clock.sleep(0.5)

    grant = await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=30))

    with pytest.raises(TimedOut):
        await loading
    assert (grant.lease.consumer, world.routes.called("load")) == ("b", ["b"])


# -- failed loads ------------------------------------------------------------------------------------------------------


async def test_a_failed_load_stops_no_unit_that_ran_before() -> None:
    world = made(routed("ollama", 6144, unit="ollama.service", vram_managed=True, pinned=True, evict=BOTH))
    world.units.become("ollama.service", UnitActivity.ACTIVE)
    world.routes.consumer("ollama").load_error = "model not found"
    await world.start()

    with pytest.raises(LoadFailed, match="model not found"):
        await world.arbiter.acquire(client(), "ollama", AcquireOptions())

    assert world.units.calls == []
    assert world.units.units["ollama.service"].activity is UnitActivity.ACTIVE


async def test_a_failed_load_stops_nothing_under_somebodys_lease() -> None:
    world = made(routed("x", 6144, unit="x.service"), slots=0)
    await world.start()
    await world.arbiter.watch_units()
    grant = await world.arbiter.acquire(client(1), "x", AcquireOptions())
    drop_model(world, "x")
    await world.clock.sleep(1.0)
    await world.housekeeping.look_around()
    assert residency(world, "x") == "unloaded"
    world.routes.consumer("x").load_error = "CUDA error"

    with pytest.raises(LoadFailed, match="CUDA error"):
        await world.arbiter.acquire(client(2), "x", AcquireOptions())

    assert world.units.calls == [("start", "x.service")]
    assert world.routes.called("unload") == []
    assert [one.id for one in world.arbiter.status().leases] == [grant.lease.id]


async def test_a_failed_load_stops_the_unit_that_was_started_for_it() -> None:
    world = made(routed("x", 6144, unit="x.service", evict=BOTH))
    world.routes.consumer("x").load_error = "CUDA error"
    await world.start()

    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(), "x", AcquireOptions())

    assert world.units.calls == [("start", "x.service"), ("stop", "x.service")]


async def test_a_clean_up_that_fails_too_leaves_the_loads_own_error() -> None:
    world = made(routed("x", 6144, unit="x.service", evict=BOTH))
    world.routes.consumer("x").load_error = "CUDA error"
    world.units.units["x.service"].stop_failure = UnitFailed("x.service refuses", "failed")
    await world.start()

    with pytest.raises(LoadFailed, match="CUDA error"):
        await world.arbiter.acquire(client(), "x", AcquireOptions())

    assert residency(world, "x") == "failed"


# -- witnesses older than our own moves --------------------------------------------------------------------------------


async def test_a_unit_whose_start_systemd_has_yet_to_tell_of_is_resident_and_not_started_again() -> None:
    world = made(by_unit("llm", 8000), slots=0)
    world.units.units["llm.service"].started = lambda: world.vram.hold(77, 8000, consumer="llm")
    await world.start()  # units were asked, and it was inactive; nobody watches them

    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    assert residency(world, "llm") == "resident", "what was heard before its start says nothing any more"
    await world.arbiter.acquire(client(2), "llm", AcquireOptions())

    assert world.units.calls == [("start", "llm.service")]


async def test_an_active_unit_of_before_its_stop_is_not_believed_after_it() -> None:
    world = made(by_unit("llm", 8000))
    world.units.units["llm.service"].activity = UnitActivity.ACTIVE
    world.vram.hold(77, 8000, consumer="llm")
    world.units.units["llm.service"].stopped = lambda: world.vram.release(77)
    await world.start()

    assert (await world.arbiter.evict("llm", False, 20.0)).freed_mib == 8000
    await world.arbiter.arbiter_state.sample()
    world.arbiter.facts.conclude_all()

    assert residency(world, "llm") == "unloaded"


# -- at once, or not at all --------------------------------------------------------------------------------------------


async def test_a_lazy_consumer_that_runs_and_fits_is_had_at_once() -> None:
    world = made(lazy("comfy", 5000))
    await world.start()

    grant = await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=0))

    assert (grant.lease.consumer, world.routes.called("load")) == ("comfy", [])


async def test_a_lazy_consumer_whose_unit_has_to_be_started_is_not_had_at_once() -> None:
    world = made(lazy("comfy", 5000, unit="comfy.service"))
    await world.start()

    with pytest.raises(Busy, match="loaded first"):
        await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=0))

    assert world.units.calls == []


async def test_a_lease_that_a_consumers_own_unit_holds_takes_no_slot() -> None:
    own = by_unit("x", 3000)
    world = made(own, routed("y", 3000))
    await world.start()
    await world.arbiter.watch_units()
    world.units.become("x.service", UnitActivity.ACTIVATING)
    exec_start_pre = client(9, unit="x.service", invocation_id=f"{1:032x}")
    await world.arbiter.acquire(exec_start_pre, "x", AcquireOptions(lifetime=LeaseLifetime.UNIT))
    world.units.become("x.service", UnitActivity.ACTIVE)

    grant = await world.arbiter.acquire(client(1), "y", AcquireOptions(timeout_sec=60))

    assert grant.lease.consumer == "y"
    with pytest.raises(TimedOut, match="device 0 is leased"):
        await world.arbiter.acquire(client(2), "x", AcquireOptions(timeout_sec=5))
