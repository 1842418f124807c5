"""Changes between a plan and its evictions: free memory, games, pins, reloads, and disconnecting clients."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import EvictionMethod, UnitActivity
from gpumand.domain.errors import GpumandError, InsufficientVram, LoadFailed, TimedOut
from gpumand.domain.events import EvictionFailed as Failed
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, ooms, reports, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def make_world(victims: dict[str, int], wanted: dict[str, int], *, unload_sec: float = 5.0) -> FakeWorld:
    """A world in which ``victims`` are loaded, never used, and slow to unload."""
    world = FakeWorld([routed(name, mib) for name, mib in (victims | wanted).items()])
    world.vram.read_sec = READ_SEC
    for name, mib in victims.items():
        world.routes.place(name, mib).unload_sec = unload_sec
    return world


async def start_evicting(world: FakeWorld, name: str, victim: str, timeout_sec: float = 100.0) -> asyncio.Task[Grant]:
    """Start an Acquire and return during the eviction of ``victim``."""
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), name, AcquireOptions(timeout_sec=timeout_sec)))
    await world.clock.advance_until(lambda: victim in world.routes.called("unload"))
    await world.clock.sleep(1.0)
    return acquiring


# -- the plan is recalculated before each eviction ---------------------------------------------------------------------


async def test_memory_freed_during_the_first_eviction_spares_the_second_victim() -> None:
    world = make_world({"v1": 8000, "v2": 8000}, {"big": 16000})
    world.vram.hold(1, 8000, name="game")
    await world.start()
    acquiring = await start_evicting(world, "big", "v1")

    world.vram.release(1)

    assert (await acquiring).evicted == ("v1",)
    assert (world.routes.called("unload"), residency(world, "v2")) == (["v1"], "resident")
    assert ooms(world) == 0


async def test_plan_that_cannot_suffice_any_more_evicts_no_further_victim() -> None:
    world = make_world({"v0": 5000, "v1": 5000, "v2": 5000}, {"big": 20000}, unload_sec=2.0)
    world.vram.hold(9, 3000, name="desktop")
    await world.start()
    acquiring = await start_evicting(world, "big", "v1")

    world.vram.hold(1, 6000, name="game")

    with pytest.raises(InsufficientVram, match=r"by game"):
        await acquiring
    assert (world.routes.called("unload"), residency(world, "v2")) == (["v0", "v1"], "resident")
    assert world.routes.called("load") == []


async def test_victim_that_is_used_meanwhile_is_replaced_by_another() -> None:
    world = make_world({"v0": 8000, "v1": 4000, "v2": 4000}, {"big": 16000})
    world.vram.hold(9, 4000, name="desktop")
    await world.start()
    acquiring = await start_evicting(world, "big", "v0")

    await world.arbiter.pin("v1", pinned=True)

    assert (await acquiring).evicted == ("v0", "v2")
    assert residency(world, "v1") == "resident"


async def test_plan_evicts_no_further_victim_after_its_request_timed_out() -> None:
    world = make_world({f"v{number}": 5000 for number in range(4)}, {"big": 22000}, unload_sec=3.0)
    await world.start()

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(), "big", AcquireOptions(timeout_sec=1))
    await world.clock.sleep(60)

    assert (world.routes.called("unload"), world.routes.called("load")) == (["v0"], [])
    assert world.arbiter.state.ledger.jobs == {}


# -- pins and reloads --------------------------------------------------------------------------------------------------


async def test_victim_pinned_between_two_methods_keeps_its_unit() -> None:
    liar = routed("liar", 13000, unit="liar.service", evict=BOTH)
    world = FakeWorld([liar, routed("b", 13000)])
    world.vram.read_sec = READ_SEC
    world.units.become("liar.service", UnitActivity.ACTIVE)
    world.routes.place("liar", 13000).lies = True
    world.units.units["liar.service"].stopped = lambda: world.routes.die("liar")
    await world.start()
    acquiring = await start_evicting(world, "b", "liar", timeout_sec=60)

    await world.arbiter.pin("liar", pinned=True)

    with pytest.raises(GpumandError):
        await acquiring
    assert world.units.calls == []
    assert [report.tried for report in reports(world, Failed)] == [("http",)]
    assert "pinned" in reports(world, Failed)[0].error
    assert residency(world, "liar") == "resident"


async def test_pin_set_during_the_reading_prevents_an_idle_eviction() -> None:
    world = FakeWorld([routed("a", 5000, idle_timeout_sec=10.0)])
    world.vram.read_sec = READ_SEC
    world.routes.place("a", 5000)
    await world.start()
    await world.clock.sleep(11.0)
    reads = world.vram.reads
    world.arbiter.manual.evict_idle()
    await world.clock.settle()
    assert world.vram.reads == reads + 1, "it is reading VRAM and has not evicted yet"

    await world.arbiter.pin("a", pinned=True)
    await world.clock.sleep(5.0)

    assert (world.routes.called("unload"), residency(world, "a")) == ([], "resident")
    assert world.arbiter.state.ledger.jobs == {}


async def test_eviction_of_a_removed_consumer_completes_and_is_announced() -> None:
    world = make_world({"image": 13312}, {"voice": 12000})
    await world.start()
    acquiring = await start_evicting(world, "voice", "image")
    world.settings = replace(world.settings, consumers={"voice": world.settings.consumers["voice"]})

    await world.arbiter.reload()

    assert (await acquiring).evicted == ("image",)
    assert [(report.consumer, report.freed_mib) for report in reports(world)] == [("image", 13312)]
    assert world.arbiter.status().stats.evictions == 1
    assert [one.name for one in world.arbiter.status().consumers] == ["voice"]


async def test_consumer_removed_during_its_manual_eviction_disappears_afterwards() -> None:
    world = make_world({"a": 5000}, {})
    await world.start()
    evict = asyncio.create_task(world.arbiter.evict("a", False, 20.0))
    await world.clock.advance_until(lambda: "a" in world.routes.called("unload"))
    world.settings = replace(world.settings, consumers={})

    await world.arbiter.reload()

    assert (await evict).freed_mib == 5000
    assert world.arbiter.status().consumers == ()


async def test_load_of_a_removed_consumer_is_broken_off_and_nothing_of_it_is_left() -> None:
    world = FakeWorld([by_unit("a", 5000), by_unit("b", 5000)])
    world.units.units["a.service"].start_delay_sec = 10.0
    await world.start()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "a", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: ("start", "a.service") in world.units.calls)
    world.settings = replace(world.settings, consumers={"b": world.settings.consumers["b"]})

    await world.arbiter.reload()

    with pytest.raises(LoadFailed, match="a: it was removed from the configuration while it was being loaded"):
        await acquiring
    assert world.units.calls == [("start", "a.service"), ("stop", "a.service")]
    assert [one.name for one in world.arbiter.status().consumers] == ["b"]
    assert world.arbiter.status().leases == ()


async def test_answers_of_a_removed_health_route_are_dropped() -> None:
    spec = routed("a", 5000, unit="a.service")
    world = FakeWorld([spec])
    world.vram.read_sec = READ_SEC
    world.units.become("a.service", UnitActivity.ACTIVE)
    world.routes.place("a", 5000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(6.0)
    assert residency(world, "a") == "resident"

    world.settings = replace(world.settings, consumers={"a": replace(spec, health=None)})
    await world.arbiter.reload()
    world.routes.consumer("a").loaded = False
    world.vram.release(world.routes.consumer("a").pid)
    await world.clock.sleep(100.0)

    assert residency(world, "a") == "unloaded"
    housekeeping.cancel()


# -- contradicting reports ---------------------------------------------------------------------------------------------


async def test_consumer_that_reports_unloaded_but_holds_a_model_is_evicted() -> None:
    world = make_world({"image": 13312}, {"voice": 12000}, unload_sec=0.5)
    world.routes.consumer("image").says_loaded = False
    await world.start()
    assert residency(world, "image") == "unloaded"

    grant = await world.arbiter.acquire(client(), "voice", AcquireOptions())

    assert grant.evicted == ("image",)
    assert ooms(world) == 0


# -- manual evictions --------------------------------------------------------------------------------------------------


async def test_manual_eviction_gets_its_turn_on_a_constantly_used_device() -> None:
    names = [f"c{number}" for number in range(6)]
    world = FakeWorld([*(routed(name, 20000) for name in names), by_unit("kept", 2000, pinned=True)])
    world.vram.read_sec = 0.0  # readings take no time, so they leave no gap for it
    world.units.become("kept.service", UnitActivity.ACTIVE)
    world.vram.hold(77, 2000, consumer="kept")
    world.units.units["kept.service"].stopped = lambda: world.vram.release(77)
    await world.start()

    async def want(number: int, name: str) -> None:
        while True:
            grant = await world.arbiter.acquire(client(number), name, AcquireOptions(timeout_sec=500))
            await world.clock.sleep(0.05)
            await world.arbiter.release(grant.lease.id)

    wanting = [asyncio.create_task(want(number, name)) for number, name in enumerate(names, 1)]
    await world.clock.sleep(1.0)
    began = world.clock.monotonic()

    outcome = await world.arbiter.evict("kept", True, 60.0)

    assert outcome.freed_mib == 2000
    assert world.clock.monotonic() - began < 10, "it waits for the running job only"
    loads = len(world.routes.called("load"))
    await world.clock.sleep(10.0)
    assert len(world.routes.called("load")) > loads, "then the other requests continue"
    for task in wanting:
        task.cancel()
