"""Loads: external starts, requests that join a load, and failed loads."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.errors import Busy, LoadFailed, TimedOut
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.ports import UnitFailed
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, drop_model, lazy, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def make_world(*specs: object, slots: int = 1) -> FakeWorld:
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=slots))  # type: ignore[arg-type]
    world.vram.read_sec = READ_SEC
    return world


# -- external starts ---------------------------------------------------------------------------------------------------


async def test_endless_start_blocks_the_device_for_its_load_timeout_only() -> None:
    world = make_world(by_unit("stuck", 2000, load_timeout_sec=60.0), routed("b", 5000))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1.0)
    world.units.become("stuck.service", UnitActivity.ACTIVATING)
    await world.clock.sleep(1.0)

    grant = await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=7200))

    assert 50 <= grant.waited_usec / 1e6 <= 100
    housekeeping.cancel()


async def test_crash_looping_unit_does_not_count_as_loading_forever() -> None:
    world = make_world(by_unit("crashing", 2000, load_timeout_sec=60.0), routed("b", 5000))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1.0)

    async def crash_and_load_again() -> None:
        while True:
            world.units.become("crashing.service", UnitActivity.ACTIVATING)
            await world.clock.sleep(5.0)
            world.units.become("crashing.service", UnitActivity.FAILED, "exit-code")
            await world.clock.sleep(0.1)

    crashing = asyncio.create_task(crash_and_load_again())
    await world.clock.sleep(70.0)
    assert residency(world, "crashing") == "resident", "its load timeout has passed, so it may be evicted"
    grant = await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=7200))

    assert grant.waited_usec / 1e6 < 40
    crashing.cancel()
    housekeeping.cancel()


async def test_unit_at_rest_gets_the_full_load_timeout_for_its_next_start() -> None:
    world = make_world(by_unit("llm", 2000, load_timeout_sec=60.0))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    for _ in range(3):
        await world.clock.sleep(30.0)
        world.units.become("llm.service", UnitActivity.ACTIVATING)
        await world.clock.sleep(50.0)
        assert residency(world, "llm") == "loading"
        world.units.become("llm.service", UnitActivity.INACTIVE)
    housekeeping.cancel()


# -- requests that join a load -----------------------------------------------------------------------------------------


async def test_request_that_joins_a_manual_load_waits_for_a_lease_slot() -> None:
    world = make_world(routed("a", 5000), routed("b", 5000))
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


async def test_request_that_joins_a_manual_load_is_granted_with_unlimited_slots() -> None:
    world = make_world(routed("a", 5000), routed("b", 5000), slots=0)
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


async def test_failed_load_does_not_stop_a_unit_that_ran_before() -> None:
    world = make_world(routed("ollama", 6144, unit="ollama.service", vram_managed=True, pinned=True, evict=BOTH))
    world.units.become("ollama.service", UnitActivity.ACTIVE)
    world.routes.consumer("ollama").load_error = "model not found"
    await world.start()

    with pytest.raises(LoadFailed, match="model not found"):
        await world.arbiter.acquire(client(), "ollama", AcquireOptions())

    assert world.units.calls == []
    assert world.units.units["ollama.service"].activity is UnitActivity.ACTIVE


async def test_failed_load_does_not_stop_a_leased_consumer() -> None:
    world = make_world(routed("x", 6144, unit="x.service"), slots=0)
    await world.start()
    await world.arbiter.watch_units()
    grant = await world.arbiter.acquire(client(1), "x", AcquireOptions())
    drop_model(world, "x")
    await world.clock.sleep(1.0)
    await world.housekeeping.refresh_all()
    assert residency(world, "x") == "unloaded"
    world.routes.consumer("x").load_error = "CUDA error"

    with pytest.raises(LoadFailed, match="CUDA error"):
        await world.arbiter.acquire(client(2), "x", AcquireOptions())

    assert world.units.calls == [("start", "x.service")]
    assert world.routes.called("unload") == []
    assert [one.id for one in world.arbiter.status().leases] == [grant.lease.id]


async def test_failed_load_stops_the_unit_it_started() -> None:
    world = make_world(routed("x", 6144, unit="x.service", evict=BOTH))
    world.routes.consumer("x").load_error = "CUDA error"
    await world.start()

    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(), "x", AcquireOptions())

    assert world.units.calls == [("start", "x.service"), ("stop", "x.service")]


async def test_failed_cleanup_keeps_the_error_of_the_load() -> None:
    world = make_world(routed("x", 6144, unit="x.service", evict=BOTH))
    world.routes.consumer("x").load_error = "CUDA error"
    world.units.units["x.service"].stop_failure = UnitFailed("x.service refuses", "failed")
    await world.start()

    with pytest.raises(LoadFailed, match="CUDA error"):
        await world.arbiter.acquire(client(), "x", AcquireOptions())

    assert residency(world, "x") == "failed"


# -- observations older than gpumand's own actions ---------------------------------------------------------------------


async def test_unit_with_an_unreported_start_is_resident_and_not_started_again() -> None:
    world = make_world(by_unit("llm", 8000), slots=0)
    world.units.units["llm.service"].started = lambda: world.vram.hold(77, 8000, consumer="llm")
    await world.start()  # units were queried once, when it was inactive, and are not watched

    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    assert residency(world, "llm") == "resident", "states observed before its start are outdated"
    await world.arbiter.acquire(client(2), "llm", AcquireOptions())

    assert world.units.calls == [("start", "llm.service")]


async def test_unit_state_from_before_its_stop_is_ignored() -> None:
    world = make_world(by_unit("llm", 8000))
    world.units.units["llm.service"].activity = UnitActivity.ACTIVE
    world.vram.hold(77, 8000, consumer="llm")
    world.units.units["llm.service"].stopped = lambda: world.vram.release(77)
    await world.start()

    assert (await world.arbiter.evict("llm", False, 20.0)).freed_mib == 8000
    await world.arbiter.state.sample()
    world.arbiter.reconciler.reconcile_all()

    assert residency(world, "llm") == "unloaded"


# -- timeout 0 ---------------------------------------------------------------------------------------------------------


async def test_running_lazy_consumer_that_fits_is_granted_with_timeout_zero() -> None:
    world = make_world(lazy("comfy", 5000))
    await world.start()

    grant = await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=0))

    assert (grant.lease.consumer, world.routes.called("load")) == ("comfy", [])


async def test_unit_without_an_unload_route_that_loads_with_its_first_request_is_granted_without_memory() -> None:
    immich = replace(by_unit("immich", 5000), loads_on_request=True)
    world = make_world(immich, by_unit("llm", 21000))
    await world.start()

    grant = await world.arbiter.acquire(client(), "immich", AcquireOptions(timeout_sec=20))
    assert world.units.calls == [("start", "immich.service")]
    assert not world.vram.is_held_by("immich")

    await world.arbiter.release(grant.lease.id)
    await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))
    assert world.units.calls[1:] == [("stop", "immich.service"), ("start", "llm.service")]


async def test_stopped_lazy_consumer_is_not_granted_with_timeout_zero() -> None:
    world = make_world(lazy("comfy", 5000, unit="comfy.service"))
    await world.start()

    with pytest.raises(Busy, match="loaded first"):
        await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=0))

    assert world.units.calls == []


async def test_lease_of_the_consumers_own_unit_uses_no_slot() -> None:
    own = by_unit("x", 3000)
    world = make_world(own, routed("y", 3000))
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
