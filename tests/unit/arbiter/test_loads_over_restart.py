"""Loads that were running when the daemon was killed: their memory stays reserved and their end is awaited."""

from __future__ import annotations

import asyncio
import errno

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route, SchedulerSettings
from gpumand.domain.errors import ConsumerBackingOff, ShuttingDown
from gpumand.domain.request import AcquireOptions
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import FakeWorld, client


def routed(name: str, mib: int) -> ConsumerSpec:
    health, load, unload = HealthRoute("/health", loaded="/loaded"), Route("/load", timeout_sec=600.0), Route("/unload")
    routes = {"health": health, "load": load, "unload": unload, "evict": (EvictionMethod.HTTP,)}
    return ConsumerSpec(name, mib, url=f"http://127.0.0.1/{name}", load_timeout_sec=60.0, **routes)  # type: ignore[arg-type]


def world(store: MemoryStore | None = None, before: FakeWorld | None = None) -> FakeWorld:
    made = FakeWorld(
        [routed("image", 13000), routed("video", 12000)],
        scheduler=SchedulerSettings(concurrent_leases=0),
        store=store,
        clock=before.clock if before else None,
    )
    for name in ("image", "video"):
        made.routes.consumer(name).load_sec, made.routes.consumer(name).load_steps = 20.0, 4
    return made


async def killed_in_a_load() -> FakeWorld:
    """A world whose daemon was killed five seconds after the load of image started."""
    dead = world()
    await dead.start()
    asking = asyncio.create_task(dead.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=60.0)))
    await dead.clock.advance(6.0)
    await dead.arbiter.stop("killed")
    with pytest.raises(ShuttingDown):
        await asking
    await dead.routes.close()
    return dead


async def test_next_request_does_not_use_memory_reserved_for_the_resumed_load() -> None:
    dead = await killed_in_a_load()
    again = world(dead.store, dead)
    again.routes.place("image", 3250).loaded = False  # a quarter of its memory
    again.routes.consumer("image").mib = 13000
    await again.start()
    assert again.arbiter.consumer_status("image").residency == "loading"

    grant = await again.arbiter.acquire(client(2), "video", AcquireOptions(timeout_sec=120.0))

    assert grant.evicted == ("image",)
    assert again.routes.called("load") == ["image", "video"]
    assert [again.routes.consumer(name).ooms for name in ("image", "video")] == [0, 0]
    assert again.store.loads == {}


async def test_repeated_request_joins_the_resumed_load() -> None:
    dead = await killed_in_a_load()
    again = world(dead.store, dead)
    await again.start()
    grant = await again.arbiter.acquire(client(2), "image", AcquireOptions(timeout_sec=60.0))
    assert grant.lease.consumer == "image"
    assert again.routes.called("load") == ["image"]
    assert again.arbiter.status().stats.loads == 1


async def test_resumed_load_that_failed_meanwhile_is_reported_as_failed() -> None:
    dead = await killed_in_a_load()
    again = world(dead.store, dead)
    again.routes.die("image")
    await again.start()
    await again.clock.advance(2.0)
    assert again.arbiter.consumer_status("image").residency == "failed"
    with pytest.raises(ConsumerBackingOff):
        await again.arbiter.acquire(client(2), "image", AcquireOptions())
    assert (await again.arbiter.acquire(client(2), "video", AcquireOptions(timeout_sec=60.0))).loaded
    assert again.store.loads == {}


async def test_load_past_its_timeout_is_not_resumed() -> None:
    dead = await killed_in_a_load()
    dead.clock.step_realtime(60.0)
    again = world(dead.store, dead)
    await again.start()
    assert again.arbiter.consumer_status("image").residency == "unloaded"
    assert again.routes.called("load") == []
    assert again.store.loads == {}


async def test_full_disk_does_not_prevent_a_load() -> None:
    full = world()
    await full.start()
    full.store.error = OSError(errno.ENOSPC, "No space left on device")
    assert (await full.arbiter.load("image", "", 60.0)).changed
    assert full.arbiter.consumer_status("image").residency == "resident"
