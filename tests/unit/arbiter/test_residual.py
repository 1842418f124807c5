"""Memory that stays after an unload by route: no failed eviction, and regained only where it is needed."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import BusyRoute, ConsumerSpec, EvictionMethod
from gpumand.domain.errors import TimedOut
from gpumand.domain.events import EvictionFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, kill_consumer, reports, residency, routed

COMFY_MIB, CONTEXT_MIB = 13312, 400
BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def comfy(**more: object) -> ConsumerSpec:
    """A lazy service with an unload route and a unit; its CUDA context stays after an unload."""
    return routed("comfy", COMFY_MIB, unit="comfy.service", load=None, health=None, evict=BOTH, **more)


async def make_world(*specs: ConsumerSpec, held_mib: int) -> FakeWorld:
    world = FakeWorld(specs)
    world.vram.read_sec = READ_SEC
    server = world.routes.place("comfy", held_mib)
    server.loaded, server.residual_mib = held_mib > CONTEXT_MIB, CONTEXT_MIB
    world.units.units["comfy.service"].stopped = lambda: kill_consumer(world, "comfy")
    await world.units.start("comfy.service", 10)
    world.units.calls.clear()
    await world.start()
    await world.arbiter.watch_units()
    return world


async def test_context_that_stays_after_an_unload_is_no_failed_eviction() -> None:
    world = await make_world(comfy(), routed("llm", 16000), held_mib=13000)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert grant.evicted == ("comfy",)
    assert grant.waited_usec / 1e6 < 5.0
    assert world.units.calls == []
    assert reports(world, EvictionFailed) == []
    (report,) = reports(world)
    assert report.freed_mib == 13000 - CONTEXT_MIB


async def test_idle_context_is_not_evicted_where_it_is_not_needed() -> None:
    world = await make_world(comfy(), routed("llm", 16000), held_mib=CONTEXT_MIB)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert (grant.evicted, world.units.calls, world.routes.called("unload")) == ((), [], [])


@pytest.mark.parametrize("held_mib", [CONTEXT_MIB, 13000])
async def test_unit_is_stopped_where_the_memory_of_its_context_is_needed(held_mib: int) -> None:
    world = await make_world(comfy(), routed("llm", 24000), held_mib=held_mib)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert set(grant.evicted) == {"comfy"}
    assert grant.waited_usec / 1e6 < 6.0
    assert world.units.calls == [("stop", "comfy.service")]
    assert world.routes.consumer("llm").ooms == 0


async def test_unit_is_not_stopped_for_its_context_while_the_server_works() -> None:
    busy = BusyRoute("/prompt", ("/exec_info/queue_remaining",))
    world = await make_world(comfy(busy=busy), routed("llm", 24000), held_mib=CONTEXT_MIB)
    world.routes.consumer("comfy").jobs = 1

    with pytest.raises(TimedOut, match=r"comfy is busy \(1 job\)"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert world.units.calls == []


async def test_manual_eviction_leaves_the_context_unless_the_unit_is_to_be_stopped() -> None:
    world = await make_world(comfy(), held_mib=CONTEXT_MIB)
    began = world.clock.monotonic()

    await world.arbiter.evict("comfy", False, 20.0)
    assert (world.units.calls, residency(world, "comfy")) == ([], "unloaded")
    assert world.clock.monotonic() - began < 2.0

    assert (await world.arbiter.evict("comfy", False, 20.0, method="unit-stop")).freed_mib == CONTEXT_MIB
    assert world.units.calls == [("stop", "comfy.service")]


async def test_learned_residual_is_tolerated() -> None:
    world = await make_world(comfy(), routed("llm", 16000), held_mib=13000)
    world.routes.consumer("comfy").residual_mib = 1500  # custom nodes keep memory
    housekeeping = asyncio.create_task(world.housekeeping.run())
    memory = world.arbiter.state.consumer("comfy").memory.with_residual(1500)
    world.arbiter.state.ledger.update("comfy", memory=memory)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert (grant.evicted, world.units.calls) == (("comfy",), [])
    housekeeping.cancel()


async def test_unload_that_frees_nothing_is_still_a_failed_eviction() -> None:
    world = await make_world(comfy(), routed("llm", 16000), held_mib=13000)
    world.routes.consumer("comfy").lies = True

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert grant.evicted == ("comfy",)
    assert world.units.calls == [("stop", "comfy.service")], "10 s without an effect: its unit is stopped"
