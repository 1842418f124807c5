"""Consumers in containers are loaded, evicted and observed like those in units."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, SchedulerSettings, UnitActivity
from gpumand.domain.errors import GpumandError, LoadFailed, TimedOut
from gpumand.domain.events import EvictionFailed
from gpumand.domain.request import AcquireOptions
from gpumand.ports import UnitFailed
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, reports, residency

COMFY = "container comfy"
SETTINGS = SchedulerSettings(settle_timeout_sec=2.0)


def contained(name: str, mib: int, **more: Any) -> ConsumerSpec:
    """A service in a container, without a unit and without routes."""
    evict = (EvictionMethod.CONTAINER,)
    return ConsumerSpec(name, mib, **({"container": name, "evict": evict} | more))


def in_both(mib: int, **more: Any) -> ConsumerSpec:
    """A unit that is ``docker run`` of a container."""
    methods = (EvictionMethod.UNIT_STOP, EvictionMethod.CONTAINER)
    return contained("comfy", mib, **({"unit": "comfy.service", "evict": methods} | more))


async def at_work(*specs: ConsumerSpec) -> FakeWorld:
    world = FakeWorld(specs, scheduler=SETTINGS)
    await world.start()
    await world.arbiter.watch_units()
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    return world


async def test_container_is_started_for_a_load_and_stopped_for_an_eviction() -> None:
    world = await at_work(contained("comfy", 16000), by_unit("llama", 16000))
    lease = (await world.arbiter.acquire(client(), "comfy", AcquireOptions())).lease
    assert residency(world, "comfy") == "resident"
    await world.arbiter.release(lease.id)

    grant = await world.arbiter.acquire(client(), "llama", AcquireOptions())

    assert grant.evicted == ("comfy",)
    assert world.units.calls == [("start", COMFY), ("stop", COMFY), ("start", "llama.service")]
    (report,) = reports(world)
    assert (report.method, report.error, report.freed_mib) == ("container", "", 16000)


async def test_container_that_comes_back_is_an_eviction_failure_with_the_reason() -> None:
    world = await at_work(contained("comfy", 16000), by_unit("llama", 16000))
    await world.arbiter.load("comfy", "", 60.0)
    world.units.units[COMFY].stop_failure = UnitFailed(
        "container comfy was started again right after it was stopped; its restart policy is always", "restarted"
    )

    with pytest.raises(GpumandError):
        await world.arbiter.acquire(client(), "llama", AcquireOptions(timeout_sec=30.0))
    assert "its restart policy is always" in reports(world, EvictionFailed)[0].error
    assert ("start", "llama.service") not in world.units.calls


async def test_memory_that_is_free_before_the_next_run_takes_it_does_not_count() -> None:
    world = await at_work(contained("comfy", 16000), by_unit("llama", 16000))
    world.units.become(COMFY, UnitActivity.ACTIVE)
    world.vram.hold(77, 16000, name="python3", unit="docker-1.scope", consumer="comfy")
    await world.clock.sleep(5.0)
    fake = world.units.units[COMFY]
    fake.stop_delay_sec, fake.stop_failure = 1.0, UnitFailed("container comfy was started again", "restarted")
    eviction = asyncio.create_task(world.arbiter.acquire(client(), "llama", AcquireOptions(timeout_sec=30.0)))
    await world.clock.sleep(0.5)
    world.vram.release(77)
    world.vram.hold(78, 16000, name="python3", unit="docker-1.scope", consumer="comfy", after_sec=1.5)

    with pytest.raises(GpumandError):
        await eviction

    assert ("start", "llama.service") not in world.units.calls


async def test_container_that_exits_during_a_load_fails_it_with_its_last_lines() -> None:
    spec = contained("comfy", 8000, url="http://127.0.0.1:1", health=HealthRoute("/health"))
    world = await at_work(spec)
    fake = world.units.units[COMFY]
    fake.lines, world.routes.consumer("comfy").running = ("CUDA error: out of memory",), False

    async def crash() -> None:
        await world.clock.sleep(1.0)
        world.units.become(COMFY, UnitActivity.FAILED, "exit status 1")

    fake.started = lambda: world.arbiter.scheduler.background.spawn(crash())
    with pytest.raises(LoadFailed, match=r"container comfy ended.*exit status 1.*CUDA error: out of memory"):
        await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=60))


async def test_crash_loop_of_a_container_fails_the_load_with_the_first_restart() -> None:
    spec = contained("comfy", 8000, url="http://127.0.0.1:1", health=HealthRoute("/health"))
    world = await at_work(spec)
    fake = world.units.units[COMFY]
    world.routes.consumer("comfy").running = False

    async def crash() -> None:
        await world.clock.sleep(2.5)
        fake.restarts += 1
        world.units.become(COMFY, UnitActivity.ACTIVATING)
        await world.clock.sleep(0.1)
        world.units.become(COMFY, UnitActivity.ACTIVE)

    fake.started = lambda: world.arbiter.scheduler.background.spawn(crash())
    began = world.clock.monotonic()
    with pytest.raises(LoadFailed, match=r"container comfy ended.*its restart policy started it again \(1 restarts"):
        await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=60))
    assert world.clock.monotonic() - began < 4


async def test_container_stopped_by_an_administrator_is_unloaded_and_its_lease_is_degraded() -> None:
    world = await at_work(contained("comfy", 8000))
    lease = (await world.arbiter.acquire(client(), "comfy", AcquireOptions())).lease
    await world.clock.sleep(5.0)
    world.units.become(COMFY, UnitActivity.INACTIVE)
    await world.clock.sleep(5.0)
    assert residency(world, "comfy") == "unloaded"
    (held,) = [one for one in world.arbiter.status().leases if one.id == lease.id]
    assert held.degraded


async def test_container_started_by_an_administrator_reserves_its_memory() -> None:
    world = await at_work(contained("comfy", 16000), by_unit("llama", 16000))
    world.units.become(COMFY, UnitActivity.ACTIVE)
    await world.clock.sleep(1.0)
    assert residency(world, "comfy") in ("resident", "loading")
    assert world.arbiter.state.consumer("comfy").claimed


async def test_processes_left_by_a_container_count_as_foreign() -> None:
    world = await at_work(contained("comfy", 8000))
    world.units.become(COMFY, UnitActivity.ACTIVE)
    await world.clock.sleep(1.0)
    world.vram.hold(77, 8000, name="python3", unit="docker-1.scope", consumer="comfy")
    await world.clock.sleep(1.0)
    world.units.become(COMFY, UnitActivity.INACTIVE)
    await world.clock.sleep(10.0)
    assert residency(world, "comfy") == "unloaded"
    assert world.arbiter.state.orphans.belong_to("comfy")


async def test_failed_helper_is_a_failed_load_with_the_reason() -> None:
    world = await at_work(contained("comfy", 8000))
    world.units.units[COMFY].start_failure = UnitFailed("the container helper does not run", "unavailable")
    with pytest.raises(LoadFailed, match="the container helper does not run"):
        await world.arbiter.acquire(client(), "comfy", AcquireOptions())


# -- unit and container ------------------------------------------------------------------------------------------------


async def test_unit_of_a_container_is_started_and_stopped_first() -> None:
    world = await at_work(in_both(16000), by_unit("llama", 16000))
    await world.arbiter.load("comfy", "", 60.0)
    await world.arbiter.acquire(client(), "llama", AcquireOptions())
    assert world.units.calls == [("start", "comfy.service"), ("stop", "comfy.service"), ("start", "llama.service")]


async def test_container_that_outlives_its_unit_is_stopped_next() -> None:
    world = await at_work(in_both(16000), by_unit("llama", 16000))
    world.units.become("comfy.service", UnitActivity.ACTIVE)
    world.units.become(COMFY, UnitActivity.ACTIVE)
    world.vram.hold(77, 16000, name="python3", unit="docker-1.scope", consumer="comfy")
    world.units.units[COMFY].stopped = lambda: world.vram.release(77)
    await world.clock.sleep(10.0)

    grant = await world.arbiter.acquire(client(), "llama", AcquireOptions(timeout_sec=60.0))

    assert grant.evicted == ("comfy",)
    assert world.units.calls[:2] == [("stop", "comfy.service"), ("stop", COMFY)]
    assert (reports(world)[-1].method, reports(world)[-1].tried) == ("container", ("unit-stop", "container"))


async def test_container_that_is_left_running_when_its_unit_ends_can_still_be_evicted() -> None:
    world = await at_work(in_both(16000), by_unit("llama", 16000))
    world.units.become("comfy.service", UnitActivity.ACTIVE)
    world.units.become(COMFY, UnitActivity.ACTIVE)
    world.vram.hold(77, 16000, name="python3", unit="docker-1.scope", consumer="comfy")
    world.units.units[COMFY].stopped = lambda: world.vram.release(77)
    await world.clock.sleep(10.0)
    world.units.become("comfy.service", UnitActivity.FAILED, "signal")
    await world.clock.sleep(70.0)
    assert residency(world, "comfy") == "resident"

    assert (await world.arbiter.acquire(client(), "llama", AcquireOptions(timeout_sec=60.0))).evicted == ("comfy",)
    assert residency(world, "comfy") == "unloaded"


async def test_unit_that_ends_with_its_container_is_unloaded() -> None:
    world = await at_work(in_both(16000))
    await world.arbiter.load("comfy", "", 60.0)
    world.units.become(COMFY, UnitActivity.ACTIVE)
    await world.clock.sleep(2.0)
    world.units.become(COMFY, UnitActivity.INACTIVE)
    world.units.become("comfy.service", UnitActivity.INACTIVE)
    await world.clock.sleep(5.0)
    assert residency(world, "comfy") == "unloaded"


async def test_container_of_two_consumers_is_stopped_only_while_neither_is_leased() -> None:
    world = await at_work(
        contained("one", 8000, container="router"), contained("two", 8000, container="router"), by_unit("llama", 20000)
    )
    world.units.become("container router", UnitActivity.ACTIVE)
    for pid, name in ((71, "one"), (72, "two")):
        world.vram.hold(pid, 8000, name="python3", unit="docker-1.scope", consumer=name)
    await world.clock.sleep(2.0)
    lease = (await world.arbiter.acquire(client(), "two", AcquireOptions())).lease
    with pytest.raises(TimedOut, match="two"):
        await world.arbiter.acquire(client(2), "llama", AcquireOptions(timeout_sec=5.0))
    assert ("stop", "container router") not in world.units.calls
    await world.arbiter.release(lease.id)


async def test_status_names_the_container() -> None:
    world = await at_work(contained("comfy", 8000, container="docker:ui"), by_unit("llama", 8000))
    found = {one.name: one.container for one in world.arbiter.status().consumers}
    assert found == {"comfy": "docker:ui", "llama": ""}
