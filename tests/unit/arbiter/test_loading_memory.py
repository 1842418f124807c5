"""Memory during a load: half a model is no model, and what was there before is not the model."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumand.arbiter.loading_memory import GROWTH_REST_SEC, LoadingMemory
from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route, SchedulerSettings, UnitActivity
from gpumand.domain.errors import LoadFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, hold_foreign_memory, routed

MIB = 12000
STEPS, STEP_SEC = 12, 1.0
LOAD_SEC = STEPS * STEP_SEC


async def world_of(spec: ConsumerSpec) -> FakeWorld:
    world = FakeWorld([spec], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    await world.start()
    await world.arbiter.watch_units()
    return world


def grow_with_unit(world: FakeWorld, name: str, mib: int = MIB, *, answers_at_once: bool = True) -> None:
    """Let the memory of a consumer grow step by step after each start of its unit."""
    server = world.routes.consumer(name)
    server.running, server.says_loaded = False, None

    async def grow() -> None:
        server.running = answers_at_once
        for step in range(1, STEPS + 1):
            await world.clock.sleep(STEP_SEC)
            world.vram.hold(server.pid, mib * step // STEPS, consumer=name)
            server.held_mib = mib * step // STEPS
        server.running = True

    def started() -> None:
        world.vram.hold(server.pid, 100, consumer=name)
        world.arbiter.scheduler.background.spawn(grow())

    world.units.units[f"{name}.service"].started = started


def held_at_grant(world: FakeWorld) -> int:
    return world.routes.consumer("llm").held_mib


@pytest.mark.parametrize("more", [{}, {"url": "http://127.0.0.1:1", "health": HealthRoute("/health")}])
async def test_half_a_model_is_not_granted_where_no_health_check_says_that_it_is_loaded(more: dict[str, Any]) -> None:
    world = await world_of(by_unit("llm", MIB, **more))
    grow_with_unit(world, "llm")

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert held_at_grant(world) >= 0.9 * MIB
    assert grant.waited_usec / 1e6 < LOAD_SEC + 1.0, "once it is there, nothing else is waited for"


async def test_model_smaller_than_declared_is_granted_when_its_growth_rests() -> None:
    world = await world_of(by_unit("llm", MIB))
    grow_with_unit(world, "llm", MIB // 2)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert held_at_grant(world) == MIB // 2
    assert grant.waited_usec / 1e6 < LOAD_SEC + GROWTH_REST_SEC + 1.0


async def test_server_that_refused_the_question_while_loading_is_believed_at_once() -> None:
    world = await world_of(by_unit("llm", 2 * MIB, url="http://127.0.0.1:1", health=HealthRoute("/health")))
    grow_with_unit(world, "llm", MIB)
    server = world.routes.consumer("llm")
    server.health_status = 503

    async def be_ready() -> None:
        await world.clock.sleep(LOAD_SEC)
        server.health_status = 0

    ready = asyncio.create_task(be_ready())
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert grant.waited_usec / 1e6 < LOAD_SEC + 0.5
    await ready


async def test_load_route_that_answers_when_it_is_done_is_believed_at_once() -> None:
    world = await world_of(routed("llm", 2 * MIB, load=Route("/load"), health=None))
    world.routes.consumer("llm").mib = MIB

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert grant.waited_usec / 1e6 == pytest.approx(world.routes.consumer("llm").load_sec, abs=0.5)


async def test_memory_that_never_rests_ends_the_load_with_what_it_holds() -> None:
    world = await world_of(by_unit("llm", 20 * MIB // 10, load_timeout_sec=LOAD_SEC / 2))
    grow_with_unit(world, "llm", MIB)

    with pytest.raises(
        LoadFailed, match=r"llm.service runs, and its memory is still growing: its processes hold \d+ MiB"
    ):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))


async def test_bare_unit_that_another_program_has_started_is_granted_with_its_whole_model() -> None:
    world = await world_of(by_unit("llm", MIB))
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    grow_with_unit(world, "llm")
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.units.units["llm.service"].started()
    await world.clock.sleep(LOAD_SEC / 3)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert held_at_grant(world) >= 0.9 * MIB
    assert grant.waited_usec / 1e6 < LOAD_SEC
    assert world.units.calls == []
    await world.arbiter.release(grant.lease.id)
    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions())).waited_usec == 0


async def test_memory_of_other_programs_from_before_the_load_is_not_its_model() -> None:
    world = await world_of(routed("llm", 5000))
    world.vram.attributable.discard("llm")
    hold_foreign_memory(world, 8000)
    await world.arbiter.state.sample()
    memory = LoadingMemory(world.arbiter.state, world.arbiter.state.consumer("llm").spec)
    memory.begin()
    memory.route_is_called()
    assert not memory.has_grown()

    world.vram.hold(2, 5000, name="python3")
    await world.arbiter.state.sample()

    assert memory.has_grown()
    assert not memory.is_missing(began_here=True)


async def test_processes_of_a_consumer_that_hold_only_a_context_have_released_their_model() -> None:
    world = await world_of(routed("llm", 5000, residual_mib=300))
    memory = LoadingMemory(world.arbiter.state, world.arbiter.state.consumer("llm").spec)
    world.routes.place("llm", 5000)
    await world.arbiter.state.sample()
    assert (memory.held_mib(), memory.holds_all(), memory.is_released()) == (5000, True, False)

    world.routes.place("llm", 350)
    await world.arbiter.state.sample()

    assert (memory.held_mib(), memory.holds_all(), memory.is_released()) == (350, False, True)
    assert "hold 350 MiB of VRAM, and a loaded llm holds 4.9 GiB" in memory.describe()
