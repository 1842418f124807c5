"""Units that were active before the daemon was started: their servers have had their time to load."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec, HealthRoute, SchedulerSettings, UnitActivity
from gpumand.domain.errors import LoadFailed
from gpumand.domain.events import LeaseDegraded
from gpumand.domain.request import AcquireOptions
from gpumand.domain.residency_states import Residency
from gpumand.ports import UnitFailed
from gpumand.testing.clock import FakeClock
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, reserved, residency

LOAD_SEC = 300.0


def served(name: str, mib: int, **more: Any) -> ConsumerSpec:
    """A unit with a server that reports its health, and no load route."""
    health = {"url": "http://127.0.0.1:1", "health": HealthRoute("/health"), "load_timeout_sec": LOAD_SEC}
    return by_unit(name, mib, **(health | more))


async def world_with(
    *specs: ConsumerSpec,
    store: MemoryStore | None = None,
    clock: FakeClock | None = None,
    active_for_sec: float | None,
    is_dead: bool = False,
    is_loading: bool = False,
) -> FakeWorld:
    """A daemon that starts when the unit llm.service has been active for a while, with or without its server."""
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0), store=store, clock=clock)
    world.vram.read_sec = READ_SEC
    world.units.become("llm.service", UnitActivity.ACTIVE)
    now = world.clock.monotonic()
    world.units.units["llm.service"].active_since = None if active_for_sec is None else now - active_for_sec
    server = world.routes.consumer("llm")
    server.says_loaded = None
    server.says_loading = server.loading = is_loading
    if is_dead:
        world.routes.die("llm")
    elif not is_loading:
        world.routes.place("llm", 8000)
    await world.start()
    await world.arbiter.watch_units()
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    return world


def start_server_with_unit(world: FakeWorld) -> None:
    """Let a start of the unit load its model."""

    def started() -> None:
        world.routes.consumer("llm").running = True
        world.routes.place("llm", 8000)

    world.units.units["llm.service"].started = started


async def test_dead_server_under_an_old_unit_does_not_count_as_loading() -> None:
    world = await world_with(served("llm", 8000), by_unit("other", 20000), active_for_sec=LOAD_SEC + 1, is_dead=True)
    await world.clock.sleep(20.0)
    assert residency(world, "llm") == "unloaded"
    assert "nothing listens on its port" in world.arbiter.consumer_status("llm").error

    grant = await world.arbiter.acquire(client(), "other", AcquireOptions(timeout_sec=60))

    assert grant.waited_usec < 1e6
    assert grant.evicted == ()


async def test_dead_server_under_an_old_unit_is_restarted_by_the_next_acquire() -> None:
    world = await world_with(served("llm", 8000), active_for_sec=LOAD_SEC + 1, is_dead=True)
    start_server_with_unit(world)
    await world.clock.sleep(20.0)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert grant.waited_usec < 5e6
    assert world.units.calls == [("stop", "llm.service"), ("start", "llm.service")]


async def test_young_unit_keeps_the_rest_of_its_load_timeout() -> None:
    world = await world_with(served("llm", 8000), active_for_sec=LOAD_SEC - 60, is_dead=True)
    await world.clock.sleep(40.0)
    assert residency(world, "llm") == "loading"

    await world.clock.sleep(40.0)

    assert residency(world, "llm") == "unloaded"


async def test_unit_of_unknown_age_gets_its_whole_load_timeout() -> None:
    world = await world_with(served("llm", 8000), active_for_sec=None, is_dead=True)
    await world.clock.sleep(LOAD_SEC - 60)
    assert residency(world, "llm") == "loading"


async def test_server_of_an_old_unit_that_says_it_is_loading_is_loading() -> None:
    world = await world_with(
        served("llm", 8000, health=HealthRoute("/health", loaded="/loaded", loading="/loading")),
        active_for_sec=10 * LOAD_SEC,
        is_loading=True,
    )
    for _ in range(20):
        assert residency(world, "llm") == Residency.LOADING
        await world.clock.sleep(1.0)


async def test_old_unit_whose_server_hangs_can_be_evicted() -> None:
    world = await world_with(served("llm", 8000), by_unit("other", 20000), active_for_sec=LOAD_SEC + 1)
    world.routes.consumer("llm").hangs = True
    world.units.units["llm.service"].stopped = lambda: world.routes.die("llm")
    await world.clock.sleep(20.0)

    grant = await world.arbiter.acquire(client(), "other", AcquireOptions(timeout_sec=120))

    assert grant.evicted == ("llm",)


async def test_holder_is_informed_of_a_server_that_died_while_the_daemon_was_away() -> None:
    before = await world_with(served("llm", 8000), active_for_sec=0.0)
    await before.clock.sleep(10.0)
    grant = await before.arbiter.acquire(client(), "llm", AcquireOptions(ttl_sec=86400.0))
    await before.arbiter.stop("restart")
    world = await world_with(
        served("llm", 8000), store=before.store, clock=before.clock, active_for_sec=LOAD_SEC + 1, is_dead=True
    )
    await world.clock.sleep(30.0)

    assert "nothing listens on its port" in world.arbiter.lease(grant.lease.id).degraded
    assert [type(event) for event in world.events].count(LeaseDegraded) == 1


async def test_unit_whose_server_was_not_asked_yet_does_not_count_as_loaded() -> None:
    world = FakeWorld([served("llm", 8000)], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.attributable.discard("llm")  # no reading contradicts it
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.die("llm")
    await world.start()
    await world.arbiter.watch_units()
    for _ in range(5):
        assert residency(world, "llm") == "loading"
        await world.housekeeping.refresh_all()


async def test_start_of_a_unit_after_a_failed_load_reserves_its_memory_before_its_server_answers() -> None:
    world = FakeWorld([served("llm", 8000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    await world.arbiter.watch_units()
    world.routes.die("llm")
    world.units.units["llm.service"].start_failure = UnitFailed("llm.service failed (exit-code)", "exit-code")
    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())
    assert residency(world, "llm") == "failed"
    await world.clock.sleep(1.0)
    world.units.become("llm.service", UnitActivity.ACTIVE)
    await world.housekeeping.refresh_all()

    assert residency(world, "llm") == "loading"
    assert reserved(world) == {"llm": 8000}
