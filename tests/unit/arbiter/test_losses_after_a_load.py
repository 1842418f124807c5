"""A server that is lost soon after a load: systemd announces nothing, since its unit stays active."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.domain.consumer import (
    BusyRoute,
    ConsumerSpec,
    EvictionMethod,
    HealthRoute,
    SchedulerSettings,
    UnitActivity,
)
from gpumand.domain.errors import LoadFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, lazy, residency

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


async def at_work(spec: ConsumerSpec) -> FakeWorld:
    world = FakeWorld([spec], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    unit, server = world.units.units[spec.unit], world.routes.consumer(spec.name)
    server.running, server.says_loaded = False, None

    def started() -> None:
        server.running, server.hangs = True, False
        if not spec.lazy:
            world.routes.place(spec.name, spec.vram_resident_mib)

    unit.started, unit.stopped = started, lambda: world.routes.die(spec.name)
    await world.start()
    await world.arbiter.watch_units()
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    return world


def served(**more: Any) -> ConsumerSpec:
    return by_unit("llm", 8000, url="http://127.0.0.1:1", health=HealthRoute("/health"), **more)


def freeze(world: FakeWorld) -> None:
    """Let the server answer nothing, with its memory taken away, as a tool that swaps processes out does."""
    server = world.routes.consumer("llm")
    server.hangs, server.held_mib = True, 0
    world.vram.release(server.pid)


async def leased_once(world: FakeWorld, name: str = "llm") -> None:
    grant = await world.arbiter.acquire(client(), name, AcquireOptions(timeout_sec=60))
    await world.arbiter.release(grant.lease.id)


async def test_frozen_server_whose_memory_is_gone_is_started_again_and_not_granted() -> None:
    world = await at_work(served())
    await leased_once(world)
    freeze(world)
    await world.clock.sleep(10.0)

    grant = await world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=60))

    assert grant.loaded
    assert world.routes.consumer("llm").held_mib == 8000
    assert world.units.calls[1:] == [("stop", "llm.service"), ("start", "llm.service")]


async def test_frozen_server_that_may_be_at_work_is_not_started_again() -> None:
    world = await at_work(served(busy=BusyRoute("/slots", ("/n",))))
    await leased_once(world)
    freeze(world)
    await world.clock.sleep(10.0)

    expected = "its processes hold 0 MiB .* llm.service is not restarted, since llm does not answer whether it is busy"
    with pytest.raises(LoadFailed, match=expected):
        await world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=60))

    assert world.units.calls == [("start", "llm.service")]


async def test_holder_is_informed_of_a_lazy_server_that_dies_under_its_active_unit_soon_after_the_grant() -> None:
    world = await at_work(lazy("comfy", 13000, unit="comfy.service", evict=BOTH, health=HealthRoute("/system_stats")))
    grant = await world.arbiter.acquire(client(), "comfy", AcquireOptions(timeout_sec=60, ttl_sec=86400.0))
    world.routes.die("comfy")
    await world.clock.sleep(30.0)

    assert "nothing listens on its port" in world.arbiter.lease(grant.lease.id).degraded
    assert residency(world, "comfy") == "unloaded"


async def test_state_of_a_unit_is_asked_for_after_a_load_and_not_again() -> None:
    world = await at_work(served())
    await leased_once(world)
    assert world.arbiter.reconciler.outdated_services() == {"llm.service"}

    await world.clock.sleep(10.0)

    assert world.arbiter.reconciler.outdated_services() == set()
    assert world.arbiter.consumer_status("llm").unit_state == UnitActivity.ACTIVE
