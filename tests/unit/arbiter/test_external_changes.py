"""Changes that gpumand did not make: health answers, crashes, external starts, foreign memory, a driver that hangs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import HealthRoute, SchedulerSettings, UnitActivity
from gpumand.domain.errors import DeviceUnavailable, TimedOut
from gpumand.domain.events import EvictionOccurred
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, hold_foreign_memory, residency, routed

# -- external changes --------------------------------------------------------------------------------------------------


async def test_health_answer_overrides_the_recorded_residency() -> None:
    world = FakeWorld([routed("a", 9000)])
    world.routes.place("a", 9000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    assert residency(world, "a") == "resident"

    consumer = world.routes.consumer("a")
    consumer.loaded, consumer.held_mib = False, 0
    world.vram.release(consumer.pid)
    await world.clock.sleep(6)

    assert residency(world, "a") == "unloaded"
    housekeeping.cancel()


async def test_crashed_unit_is_unloaded_and_loaded_by_the_next_acquire() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    await world.start()
    await world.arbiter.watch_units()
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.clock.sleep(1)
    world.units.become("llm.service", UnitActivity.FAILED, "oom-kill")

    assert residency(world, "llm") == "unloaded"
    assert world.arbiter.consumer_status("llm").error == "llm.service failed (oom-kill)"
    await world.arbiter.release(grant.lease.id)
    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions())).loaded
    assert world.units.calls.count(("start", "llm.service")) == 2


async def test_no_manual_or_idle_eviction_during_an_external_start() -> None:
    world = FakeWorld([by_unit("llm", 9000), routed("a", 5000, idle_timeout_sec=10.0), routed("b", 5000)])
    world.routes.place("a", 5000)
    world.routes.place("b", 5000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    world.units.become("llm.service", UnitActivity.ACTIVATING)
    await world.clock.sleep(60)
    assert [residency(world, name) for name in ("llm", "a")] == ["loading", "resident"]

    with pytest.raises(TimedOut, match="llm is loading on device 0"):
        await world.arbiter.evict("b", False, 5.0)
    assert (await world.arbiter.evict("b", True, 5.0)).changed
    world.units.become("llm.service", UnitActivity.ACTIVE)
    await world.clock.sleep(10)

    assert residency(world, "a") == "unloaded"
    housekeeping.cancel()


async def test_external_start_reserves_memory_and_blocks_the_device() -> None:
    world = FakeWorld([by_unit("llm", 14000), routed("image", 12000)])
    await world.start()
    await world.arbiter.watch_units()

    world.units.become("llm.service", UnitActivity.ACTIVATING)
    assert world.arbiter.status().devices[0].reserved_mib == 14000
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=100)))
    await world.clock.sleep(5)
    assert world.routes.called("load") == []
    world.vram.hold(77, 14000, consumer="llm", unit="llm.service")
    world.units.units["llm.service"].stopped = lambda: world.vram.release(77)
    world.units.become("llm.service", UnitActivity.ACTIVE)

    assert (await acquiring).evicted == ("llm",)
    assert world.routes.consumer("image").ooms == 0


async def test_endless_external_start_does_not_block_the_device_forever() -> None:
    world = FakeWorld([by_unit("stuck", 14000, load_timeout_sec=60.0), routed("image", 12000)])
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1)
    world.units.become("stuck.service", UnitActivity.ACTIVATING)

    grant = await world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=200))

    assert grant.loaded
    assert 60 <= grant.waited_usec / 1e6 <= 100, "its load timeout plus the time in which memory may still appear"
    housekeeping.cancel()


async def test_resident_consumer_that_does_not_answer_stays_resident() -> None:
    spec = by_unit("llm", 8000, url="http://127.0.0.1:1", health=HealthRoute("/health", timeout_sec=2.0))
    world = FakeWorld([spec])
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.place("llm", 8000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    world.routes.consumer("llm").hangs = True
    await world.clock.sleep(20)

    assert residency(world, "llm") == "resident"
    housekeeping.cancel()


# -- degraded ----------------------------------------------------------------------------------------------------------


async def test_eviction_without_readings_is_reported_as_unverified() -> None:
    world = FakeWorld([routed("a", 14000), routed("b", 14000, devices=("0",))])
    world.settings = replace(world.settings, gpu=replace(world.settings.gpu, total_mib=24564))
    world.routes.place("a", 14000)
    await world.arbiter.reload()
    world.vram.fail("driver-mismatch: Driver/library version mismatch")
    await world.start()

    grant = await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=60))

    assert grant.evicted == ("a",)
    (event,) = [event for event in world.events if isinstance(event, EvictionOccurred)]
    assert (event.report.verified, event.report.freed_mib) == (False, 0)
    assert world.arbiter.summary().degraded.startswith("driver-mismatch")


async def test_hanging_driver_degrades_but_requests_are_answered() -> None:
    world = FakeWorld([routed("a", 9000), routed("b", 9000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    world.vram.hang()
    await world.clock.sleep(10)

    assert world.arbiter.summary().degraded.startswith("nvml-hangs")
    assert (await world.arbiter.acquire(client(2), "a", AcquireOptions())).lease, "a resident consumer needs no reading"
    with pytest.raises(DeviceUnavailable, match="nvml-hangs"):
        await world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=30))
    world.vram.resume()
    await world.clock.sleep(5)
    assert world.arbiter.summary().degraded == ""
    assert (await world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=30))).loaded
    housekeeping.cancel()


async def test_new_foreign_memory_is_considered_by_the_next_decision() -> None:
    world = FakeWorld([routed("a", 9000)])
    await world.start()
    hold_foreign_memory(world, 20000)

    report = await world.arbiter.plan(client(), "a", AcquireOptions())

    assert report.verdict is Verdict.REFUSE
    assert "session-1.scope" in report.message
