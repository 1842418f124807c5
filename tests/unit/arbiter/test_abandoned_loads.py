"""Loads that no request waits for: how long they go on, and for which request they give way."""

from __future__ import annotations

import asyncio

from gpumand.arbiter.abandoned_loads import GRACE_SEC, AbandonedLoads
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.request import AcquireOptions, Request
from gpumand.domain.residency_states import Residency
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed


async def world_with_load() -> FakeWorld:
    """A world in which ``a`` is being loaded; ``b`` does not fit beside it, and ``small`` does."""
    specs = [routed("a", 14000), routed("b", 14000), routed("small", 2000)]
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    world.arbiter.state.set_residency("a", Residency.LOADING)
    world.arbiter.state.ledger.claim("a", (0,), world.clock.monotonic())
    return world


def request_for(world: FakeWorld, name: str) -> WaitingRequest:
    request = Request(1, name, client(), AcquireOptions(), priority=0, arrived_at=world.clock.monotonic())
    return WaitingRequest(request, (), asyncio.get_running_loop().create_future())


async def test_load_gives_way_after_its_grace_and_names_the_consumer_that_needs_its_room() -> None:
    world = await world_with_load()
    loads = AbandonedLoads(world.arbiter.state)
    assert loads.note(["a"])
    assert loads
    waiting = [request_for(world, "small"), request_for(world, "b")]
    assert loads.in_the_way(waiting) == {}

    await world.clock.sleep(GRACE_SEC)

    assert not loads.note(["a"]), "it is not new any more"
    assert loads.in_the_way(waiting) == {"a": "b"}


async def test_load_that_a_request_waits_for_again_gets_a_new_grace() -> None:
    world = await world_with_load()
    loads = AbandonedLoads(world.arbiter.state)
    loads.note(["a"])
    await world.clock.sleep(GRACE_SEC)
    loads.note([])
    assert not loads

    assert loads.note(["a"])

    assert loads.in_the_way([request_for(world, "b")]) == {}


async def test_load_does_not_give_way_to_what_fits_beside_it_or_waits_for_it_or_has_left() -> None:
    world = await world_with_load()
    loads = AbandonedLoads(world.arbiter.state)
    loads.note(["a"])
    await world.clock.sleep(GRACE_SEC)
    left = request_for(world, "b")
    left.done.cancel()

    for waiting in ([], [request_for(world, "small")], [request_for(world, "a")], [left]):
        assert loads.in_the_way(waiting) == {}


async def test_load_of_a_consumer_that_a_reload_has_removed_gives_way_to_nothing() -> None:
    world = await world_with_load()
    loads = AbandonedLoads(world.arbiter.state)
    loads.note(["removed"])
    await world.clock.sleep(GRACE_SEC)
    assert loads.in_the_way([request_for(world, "b")]) == {}
