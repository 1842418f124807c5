"""Load: what it returns, and what becomes of it when its caller leaves or the configuration changes."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.errors import GpumandError, InvalidArgs, LoadFailed, NoSuchConsumer, NoSuchDevice, TimedOut
from gpumand.domain.request import AcquireOptions, ManualResult
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import residency, routed


async def make_world(*, devices: int = 1) -> FakeWorld:
    world = FakeWorld([routed("a", 14000), routed("b", 14000)], total_mib=(24564,) * devices)
    for name in ("a", "b"):
        world.routes.consumer(name).load_sec = 10.0
    world.routes.where = lambda name: world.arbiter.state.consumer(name).devices
    await world.start()
    return world


async def test_result_names_what_was_evicted_and_how_long_it_took() -> None:
    world = await make_world()
    world.routes.place("a", 14000)
    await world.housekeeping.refresh_all()
    result = await world.arbiter.load("b", "", 60.0)
    assert (result.consumer, result.device, result.changed, result.evicted) == ("b", "0", True, ("a",))
    assert result.duration_usec >= 10_000_000
    assert world.arbiter.status().leases == ()


async def test_loaded_consumer_is_left_alone_and_is_not_moved_to_another_device() -> None:
    world = await make_world(devices=2)
    first = await world.arbiter.load("a", "1", 60.0)
    assert (first.device, first.changed) == ("1", True)
    assert await world.arbiter.load("a", "", 0.0) == ManualResult("a", "1")
    assert await world.arbiter.load("a", "1", 0.0) == ManualResult("a", "1")
    with pytest.raises(InvalidArgs, match="is resident on device 1"):
        await world.arbiter.load("a", "0", 60.0)
    assert world.routes.called("load") == ["a"]


async def test_two_loads_of_one_consumer_are_one_load() -> None:
    world = await make_world()
    results = await asyncio.gather(*(world.arbiter.load("a", "", 60.0) for _ in range(2)))
    assert [(one.consumer, one.device) for one in results] == [("a", "0"), ("a", "0")]
    assert world.routes.called("load") == ["a"]


async def test_load_goes_on_when_its_caller_leaves() -> None:
    world = await make_world()
    loading = asyncio.create_task(world.arbiter.load("a", "", 60.0))
    await world.clock.advance_until(lambda: world.routes.called("load") == ["a"])
    loading.cancel()
    await world.clock.sleep(20.0)
    assert residency(world, "a") == "resident"


async def test_load_that_waits_behind_a_lease_times_out_and_loads_nothing_later() -> None:
    world = await make_world()
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions(timeout_sec=60.0))
    with pytest.raises(TimedOut):
        await world.arbiter.load("b", "", 5.0)
    await world.arbiter.release(grant.lease.id)
    await world.clock.sleep(60.0)
    assert world.routes.called("load") == ["a"]


async def test_failed_load_has_its_own_error() -> None:
    world = await make_world()
    world.routes.consumer("a").running = False
    with pytest.raises(LoadFailed):
        await world.arbiter.load("a", "", 60.0)


async def test_load_of_a_consumer_that_a_reload_removes_ends_with_an_error() -> None:
    world = await make_world()
    loading = asyncio.create_task(world.arbiter.load("a", "", 60.0))
    await world.clock.advance_until(lambda: world.routes.called("load") == ["a"])
    del world.settings.consumers["a"]
    await world.arbiter.reload()
    with pytest.raises(GpumandError):
        await loading
    assert world.arbiter.status().queue == ()


@pytest.mark.parametrize(("consumer", "device", "error"), [("c", "", NoSuchConsumer), ("a", "9", NoSuchDevice)])
async def test_invalid_load_is_refused_before_it_enters_the_queue(
    consumer: str, device: str, error: type[GpumandError]
) -> None:
    world = await make_world()
    with pytest.raises(error):
        await world.arbiter.load(consumer, device, 60.0)
    assert world.routes.called("load") == []
