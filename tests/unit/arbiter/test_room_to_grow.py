"""A loaded consumer that holds less than its footprint, and others that were loaded into the rest meanwhile."""

from __future__ import annotations

import pytest

from gpumand.domain.errors import Busy
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.domain.residency_states import Residency
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

WAIT = AcquireOptions(timeout_sec=30)


async def beside_each_other() -> FakeWorld:
    """On 24 GiB, comfy has freed all but 4 of its 16 GiB after its work, and llm with 12 GiB was loaded beside it."""
    world = FakeWorld([routed("comfy", 16384), routed("llm", 12288)])
    world.routes.place("comfy", 16384)
    await world.start()
    await use(world, "comfy")
    comfy = world.routes.place("comfy", 4096)
    await use(world, "llm")
    assert comfy.held_mib == 4096
    return world


async def both_loaded(*, llm_mib: int) -> FakeWorld:
    """Comfy holds its 16 GiB, and llm is loaded beside it."""
    world = FakeWorld([routed("comfy", 16384), routed("llm", llm_mib)])
    world.routes.place("comfy", 16384)
    world.routes.place("llm", llm_mib)
    await world.start()
    return world


async def use(world: FakeWorld, name: str) -> None:
    lease = await acquire(world, name)
    await world.arbiter.release(lease.lease.id)


async def acquire(world: FakeWorld, name: str, options: AcquireOptions = WAIT) -> Grant:
    return await world.arbiter.acquire(client(), name, options)


def residency(world: FakeWorld, name: str) -> str:
    return str(world.arbiter.consumer_status(name).residency)


async def test_room_for_the_rest_is_made_before_the_next_lease() -> None:
    world = await beside_each_other()

    await acquire(world, "comfy")

    assert residency(world, "llm") == Residency.UNLOADED
    assert residency(world, "comfy") == Residency.RESIDENT


async def test_plan_names_the_consumer_that_is_in_the_way() -> None:
    world = await beside_each_other()
    await world.clock.sleep(60)  # the turn of llm has ended

    decision = await world.arbiter.plan(client(), "comfy", AcquireOptions())

    assert [one.consumer for one in decision.evictions] == ["llm"]


async def test_request_that_must_not_wait_is_refused_with_the_reason() -> None:
    world = await beside_each_other()

    with pytest.raises(Busy, match="others must be evicted so that it can grow; allow a timeout above 0"):
        await acquire(world, "comfy", AcquireOptions(timeout_sec=0))

    assert residency(world, "llm") == Residency.RESIDENT


async def test_nothing_is_evicted_where_the_rest_is_free() -> None:
    world = await both_loaded(llm_mib=7000)
    world.routes.place("comfy", 4096)

    await acquire(world, "comfy")

    assert residency(world, "llm") == Residency.RESIDENT


async def test_less_than_the_cushion_is_not_evicted_for() -> None:
    world = await both_loaded(llm_mib=8100)
    world.routes.place("comfy", 16384 - 256)
    world.routes.place("llm", 8300)

    await acquire(world, "comfy")

    assert residency(world, "llm") == Residency.RESIDENT


async def test_a_lease_is_granted_where_no_eviction_can_help() -> None:
    world = await beside_each_other()
    await world.arbiter.pin("llm", True)

    await acquire(world, "comfy")

    assert residency(world, "llm") == Residency.RESIDENT


async def test_a_further_lease_beside_an_active_one_evicts_nothing() -> None:
    world = FakeWorld([routed("comfy", 16384), routed("llm", 12288)])
    world.routes.place("comfy", 16384)
    await world.start()
    await acquire(world, "comfy")
    world.routes.place("comfy", 4096)
    world.routes.place("llm", 12288)  # loaded by its own client, past the reservation
    await world.arbiter.state.sample()

    await acquire(world, "comfy")

    assert world.routes.consumer("llm").held_mib == 12288
