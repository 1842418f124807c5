"""Loads of units: a crash loop, a server that died under its active unit, and one that stays dead."""

from __future__ import annotations

import pytest

from gpumand.domain.consumer import HealthRoute, UnitActivity
from gpumand.domain.errors import LoadFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import at_work, residency, routed
from tests.unit.arbiter.load_evidence_setup import served


async def test_crash_loop_fails_the_load_with_the_first_restart() -> None:
    world = await at_work(served("llm", 8000))
    unit = world.units.units["llm.service"]
    unit.lines, world.routes.consumer("llm").running = ("CUDA error: out of memory",), False

    async def crash() -> None:
        await world.clock.sleep(2.5)
        world.units.become("llm.service", UnitActivity.ACTIVATING)
        unit.restarts += 1
        await world.clock.sleep(0.1)
        world.units.become("llm.service", UnitActivity.ACTIVE)

    unit.started = lambda: world.arbiter.scheduler.background.spawn(crash())
    began = world.clock.monotonic()

    with pytest.raises(LoadFailed, match=r"llm\.service ended.*started it again.*CUDA error: out of memory"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.clock.monotonic() - began < 3.5
    assert world.units.calls == [("start", "llm.service"), ("stop", "llm.service")]


async def test_server_that_died_under_its_active_unit_is_noticed_and_started_again() -> None:
    world = await at_work(served("llm", 8000))
    world.vram.attributable.discard("llm")  # the memory is a container's
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.consumer("llm").says_loaded = None
    world.units.units["llm.service"].started = lambda: setattr(world.routes.consumer("llm"), "running", True)
    await world.clock.sleep(10.0)
    assert residency(world, "llm") == "resident"
    world.routes.die("llm")
    await world.clock.sleep(20.0)
    assert residency(world, "llm") == "unloaded"
    assert "nothing listens on its port" in world.arbiter.consumer_status("llm").error

    await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.units.calls == [("stop", "llm.service"), ("start", "llm.service")]


async def test_server_that_stays_dead_is_a_failed_load() -> None:
    world = await at_work(served("llm", 8000, load_timeout_sec=20.0))
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.place("llm", 8000)
    await world.clock.sleep(10.0)
    world.routes.die("llm")
    await world.clock.sleep(20.0)

    with pytest.raises(LoadFailed, match="connection refused"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))


async def test_refused_server_without_a_unit_is_not_granted() -> None:
    world = await at_work(routed("remote", 8000, load=None, health=HealthRoute("/health")))
    world.vram.attributable.discard("remote")
    world.routes.consumer("remote").says_loaded = None
    await world.clock.sleep(10.0)
    world.routes.die("remote")
    await world.clock.sleep(20.0)

    with pytest.raises(LoadFailed, match="connection refused"):
        await world.arbiter.acquire(client(), "remote", AcquireOptions(timeout_sec=60))
