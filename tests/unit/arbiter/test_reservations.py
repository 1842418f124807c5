"""Reservations: how long they last, and which observations end them."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, drop_model, lazy, ooms, reserved, residency, routed

UNLIMITED = SchedulerSettings(concurrent_leases=0)


def make_world(*specs: object) -> FakeWorld:
    """A world without a limit on concurrent leases."""
    world = FakeWorld(specs, scheduler=UNLIMITED)  # type: ignore[arg-type]
    world.vram.read_sec = READ_SEC
    return world


async def test_growing_foreign_memory_does_not_reduce_the_reservation_of_a_lazy_consumer() -> None:
    comfy = lazy("comfy", 13312)
    world = make_world(comfy, routed("x", 8000))
    await world.start()
    await world.arbiter.acquire(client(1), "comfy", AcquireOptions())
    world.vram.hold(1, 6000, name="notebook")
    await world.arbiter.state.sample()

    assert reserved(world) == {"comfy": 13312}
    with pytest.raises(TimedOut, match="leased to comfy"):
        await world.arbiter.acquire(client(2), "x", AcquireOptions())
    await world.routes.work(comfy)

    assert ooms(world) == 0
    await world.housekeeping.refresh_all()
    assert reserved(world) == {}


async def test_reservation_is_kept_when_a_leased_consumer_unloads_itself() -> None:
    ollama = lazy("ollama", 6144)
    world = make_world(ollama, routed("x", 15000))
    world.vram.hold(1, 4000, name="desktop")
    await world.start()
    await world.arbiter.acquire(client(1), "ollama", AcquireOptions())
    await world.routes.work(ollama)
    await world.housekeeping.refresh_all()
    assert reserved(world) == {}, "readings contain its memory"

    drop_model(world, "ollama")
    await world.housekeeping.refresh_all()

    assert (residency(world, "ollama"), reserved(world)) == ("resident", {"ollama": 6144})
    with pytest.raises(TimedOut, match="leased to ollama"):
        await world.arbiter.acquire(client(2), "x", AcquireOptions())
    await world.routes.work(ollama)
    assert ooms(world) == 0


async def test_reservation_is_kept_when_a_leased_consumer_reports_unloaded() -> None:
    """The same for memory that is not attributed to the consumer, with a health route that reports the unload."""
    ollama = routed("ollama", 6144, load=None)
    world = make_world(ollama, routed("x", 15000))
    world.vram.attributable.discard("ollama")
    await world.start()
    await world.arbiter.acquire(client(1), "ollama", AcquireOptions())
    world.routes.consumer("ollama").loaded = True
    world.vram.hold(77, 6144, name="docker")
    await world.clock.sleep(1.0)
    await world.housekeeping.refresh_all()
    assert reserved(world) == {}

    world.routes.consumer("ollama").loaded = False
    world.vram.release(77)
    await world.clock.sleep(1.0)
    await world.housekeeping.refresh_all()

    assert reserved(world) == {"ollama": 6144}


async def test_second_lease_adds_no_reservation() -> None:
    world = make_world(by_unit("llm", 8000), routed("b", 10000))
    world.vram.attributable.discard("llm")  # its unit is a docker run: the memory is a container's
    world.units.units["llm.service"].started = lambda: world.vram.hold(77, 8000, name="docker")
    await world.start()
    await world.arbiter.watch_units()
    first = await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    await world.arbiter.release(first.lease.id)
    await world.clock.sleep(1.0)
    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    await world.housekeeping.refresh_all()

    assert reserved(world) == {}
    assert (await world.arbiter.acquire(client(2), "b", AcquireOptions())).loaded
    assert ooms(world) == 0


async def test_lease_reserves_memory_on_its_own_device_only() -> None:
    world = FakeWorld([lazy("comfy", 13312)], total_mib=(24564, 24564))
    world.vram.read_sec = READ_SEC
    await world.start()

    device = int((await world.arbiter.acquire(client(), "comfy", AcquireOptions(device="1"))).lease.device)

    assert (device, reserved(world, 0), reserved(world, 1)) == (1, {}, {"comfy": 13312})


async def test_revoking_an_unloaded_lazy_consumer_does_not_wait_for_memory() -> None:
    world = make_world(lazy("comfy", 13312))
    world.vram.hold(1, 9000, name="game")
    await world.start()
    await world.arbiter.acquire(client(), "comfy", AcquireOptions())
    began = world.clock.monotonic()

    outcome = await world.arbiter.evict("comfy", True, 20.0)

    assert outcome.freed_mib == 0, "the game's memory never belonged to comfy"
    assert world.clock.monotonic() - began < 2
    assert (world.arbiter.status().leases, reserved(world)) == ((), {})
    assert residency(world, "comfy") == "unloaded"


async def test_lazy_unit_that_never_loaded_gets_memory_freed_again() -> None:
    comfy = lazy("comfy", 13000, unit="comfy.service")
    world = FakeWorld([comfy, routed("x", 12000)])
    world.vram.read_sec = READ_SEC
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    lease = (await world.arbiter.acquire(client(1), "comfy", AcquireOptions())).lease
    await world.arbiter.release(lease.id)  # its client never sent a request to it
    lease = (await world.arbiter.acquire(client(2), "x", AcquireOptions(timeout_sec=60))).lease
    await world.arbiter.release(lease.id)

    grant = await world.arbiter.acquire(client(1), "comfy", AcquireOptions(timeout_sec=60))
    await world.routes.work(comfy)

    assert grant.evicted == ("x",)
    assert ooms(world) == 0
    housekeeping.cancel()
