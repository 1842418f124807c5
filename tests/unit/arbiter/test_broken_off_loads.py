"""Loads that are broken off: by a forced eviction, or because no request waits for them any more."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route, UnitActivity
from gpumand.domain.errors import LoadFailed, TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import at_work, by_unit, ooms, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def slow_server(name: str, mib: int) -> ConsumerSpec:
    return by_unit(name, mib, url="http://127.0.0.1:1", health=HealthRoute("/health"), load_timeout_sec=600.0)


async def start_slow_load(world: FakeWorld, name: str, timeout_sec: float) -> asyncio.Task[object]:
    """Begin the load of a unit whose server never listens."""
    world.routes.consumer(name).running = False
    asking = asyncio.create_task(world.arbiter.acquire(client(1), name, AcquireOptions(timeout_sec=timeout_sec)))
    await world.clock.sleep(2.0)
    assert residency(world, name) == "loading"
    return asking


# -- forced evictions --------------------------------------------------------------------------------------------------


async def test_forced_eviction_stops_the_unit_of_a_load_and_informs_everyone_who_waits() -> None:
    world = await at_work(slow_server("llm", 8000))
    first = await start_slow_load(world, "llm", 600.0)
    joined = asyncio.create_task(world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)
    began = world.clock.monotonic()

    outcome = await world.arbiter.evict("llm", True, 0.0)

    assert outcome.changed
    assert world.clock.monotonic() - began < 2.0
    for waiting in (first, joined):
        with pytest.raises(LoadFailed, match="cancelled by a forced eviction"):
            await waiting
    assert world.units.calls == [("start", "llm.service"), ("stop", "llm.service")]
    assert residency(world, "llm") == "unloaded"
    assert world.arbiter.state.ledger.jobs == {}


async def test_forced_eviction_cancels_a_load_whose_client_has_gone() -> None:
    world = await at_work(slow_server("llm", 8000))
    asking = await start_slow_load(world, "llm", 3.0)
    with pytest.raises(TimedOut):
        await asking

    assert (await world.arbiter.evict("llm", True, 5.0)).changed

    assert world.units.units["llm.service"].activity is UnitActivity.INACTIVE


async def test_forced_eviction_unloads_what_a_load_route_has_begun() -> None:
    world = await at_work(routed("llm", 8000))
    server = world.routes.consumer("llm")
    server.load_sec, server.load_steps = 60.0, 20
    asking = asyncio.create_task(world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(10.0)

    assert (await world.arbiter.evict("llm", True, 5.0)).changed

    with pytest.raises(LoadFailed, match="cancelled"):
        await asking
    assert set(world.routes.called("unload")) == {"llm"}
    await world.clock.sleep(60.0)
    assert server.held_mib == 0, "the server, which goes on loading, is unloaded again afterwards"


@pytest.mark.parametrize("answer", ["hangs", "500"])
async def test_forced_eviction_stops_the_unit_of_a_load_whose_server_does_not_unload(answer: str) -> None:
    world = await at_work(
        routed(
            "llm", 8000, unit="llm.service", evict=BOTH, load=Route("/load", timeout_sec=600.0), load_timeout_sec=900.0
        )
    )
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.units.units["llm.service"].stopped = lambda: world.routes.die("llm")
    server = world.routes.consumer("llm")
    server.load_sec, server.load_steps = 500.0, 100
    loading = asyncio.create_task(world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=800)))
    await world.clock.sleep(100.0)
    server.hangs, server.unload_error = answer == "hangs", "" if answer == "hangs" else "AttributeError"
    began = world.clock.monotonic()

    outcome = await world.arbiter.evict("llm", True, 60.0)

    assert (outcome.changed, outcome.method) == (True, "unit-stop")
    assert world.clock.monotonic() - began < 55.0
    assert (residency(world, "llm"), server.held_mib) == ("unloaded", 0)
    with pytest.raises(LoadFailed, match="cancelled by a forced eviction"):
        await loading


async def test_consumer_can_be_loaded_at_once_after_its_load_was_cancelled() -> None:
    world = await at_work(slow_server("llm", 8000))
    asking = await start_slow_load(world, "llm", 600.0)
    await world.arbiter.evict("llm", True, 5.0)
    with pytest.raises(LoadFailed):
        await asking
    world.routes.consumer("llm").running = True
    world.units.units["llm.service"].started = lambda: world.routes.place("llm", 8000)

    assert (await world.arbiter.acquire(client(2), "llm", AcquireOptions())).loaded


async def test_request_for_another_consumer_is_served_after_the_cancelled_load() -> None:
    world = await at_work(slow_server("llm", 20000), routed("voice", 8000))
    first = await start_slow_load(world, "llm", 600.0)
    other = asyncio.create_task(world.arbiter.acquire(client(2), "voice", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)

    await world.arbiter.evict("llm", True, 5.0)

    assert (await other).lease.consumer == "voice"
    with pytest.raises(LoadFailed):
        await first


# -- abandoned loads ---------------------------------------------------------------------------------------------------


async def test_load_that_no_request_waits_for_gives_way_to_a_request_that_needs_its_room() -> None:
    world = await at_work(slow_server("llm", 20000), routed("voice", 8000))
    asking = await start_slow_load(world, "llm", 5.0)
    with pytest.raises(TimedOut):
        await asking

    grant = await world.arbiter.acquire(client(2), "voice", AcquireOptions())

    assert grant.waited_usec / 1e6 < 10.0
    assert ("stop", "llm.service") in world.units.calls
    assert ooms(world) == 0


async def test_abandoned_load_goes_on_where_both_fit() -> None:
    world = await at_work(slow_server("llm", 8000), routed("voice", 8000))
    asking = await start_slow_load(world, "llm", 5.0)
    with pytest.raises(TimedOut):
        await asking
    other = asyncio.create_task(world.arbiter.acquire(client(2), "voice", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(20.0)
    assert residency(world, "llm") == "loading"
    world.routes.consumer("llm").running = True
    world.routes.place("llm", 8000)

    assert (await other).lease.consumer == "voice"
    assert ("stop", "llm.service") not in world.units.calls


async def test_load_that_a_request_waits_for_does_not_give_way() -> None:
    world = await at_work(slow_server("llm", 20000), routed("voice", 8000))
    asking = await start_slow_load(world, "llm", 600.0)

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "voice", AcquireOptions())

    assert residency(world, "llm") == "loading"
    asking.cancel()


async def test_client_that_asks_again_soon_joins_its_abandoned_load() -> None:
    world = await at_work(routed("a", 20000), routed("b", 20000))
    world.routes.consumer("a").load_sec = 30.0
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(1), "a", AcquireOptions(timeout_sec=5))
    rival = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)

    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions(timeout_sec=60))

    assert world.routes.called("load") == ["a"]
    await world.arbiter.release(grant.lease.id)
    assert (await rival).evicted == ("a",)
