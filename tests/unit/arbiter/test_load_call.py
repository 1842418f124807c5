"""Load routes that have not answered: only memory that has grown by the new model ends the wait for them."""

from __future__ import annotations

import asyncio

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, routed


async def loading_world(load_sec: float, load_steps: int, held_mib: int = 0) -> tuple[FakeWorld, asyncio.Task[Grant]]:
    """A server that says that its model is loaded as soon as it loads it, and the request that loads it."""
    world = FakeWorld([routed("llm", 8000)], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    server = world.routes.consumer("llm")
    server.load_sec, server.load_steps, server.says_loaded = load_sec, load_steps, False
    if held_mib:
        world.routes.place("llm", held_mib)
        server.loaded = False
    await world.start()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=600)))
    await world.clock.advance_until(lambda: world.routes.called("load") == ["llm"])
    server.says_loaded = True
    return world, acquiring


async def test_memory_of_the_former_model_is_no_evidence_of_the_new_one() -> None:
    world, acquiring = await loading_world(60.0, 1, held_mib=8000)
    began = world.clock.monotonic()

    await acquiring

    assert world.clock.monotonic() - began >= 59.0


async def test_pause_in_a_load_is_not_its_end() -> None:
    world, acquiring = await loading_world(50.0, 5)
    began = world.clock.monotonic()

    await acquiring

    assert world.clock.monotonic() - began >= 40.0


async def test_model_that_takes_the_place_of_the_former_one_is_evident() -> None:
    world, acquiring = await loading_world(600.0, 1, held_mib=8000)
    began = world.clock.monotonic()
    pid = world.routes.consumer("llm").pid
    world.vram.hold(pid, 0, consumer="llm")
    await world.clock.sleep(5.0)
    world.vram.hold(pid, 8000, consumer="llm")

    await acquiring

    assert 8.0 <= world.clock.monotonic() - began < 12.0
