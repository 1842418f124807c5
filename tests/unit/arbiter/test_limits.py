"""Limits on evictions per request, waiting requests and leases."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec, SchedulerSettings
from gpumand.domain.errors import EvictionFailed, InsufficientVram, LimitsExceeded
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, hold_foreign_memory, ooms, residency, routed


def make_world(count: int, mib: int, *others: ConsumerSpec, **settings: Any) -> FakeWorld:
    """A world with ``count`` loaded consumers of one size; v0 is the first victim."""
    specs = [routed(f"v{number}", mib) for number in range(count)]
    world = FakeWorld([*specs, *others], scheduler=SchedulerSettings(**settings))
    world.vram.read_sec = READ_SEC
    for spec in specs:
        world.routes.place(spec.name, mib)
    return world


async def test_plan_with_too_many_evictions_is_refused_like_acquire() -> None:
    world = make_world(6, 3900, routed("big", 23000))
    await world.start()

    report = await world.arbiter.plan(client(), "big", AcquireOptions())
    with pytest.raises(InsufficientVram, match=r"3\.8 GiB by v0") as refused:
        await world.arbiter.acquire(client(), "big", AcquireOptions())

    assert (report.verdict, report.evictions) == (Verdict.REFUSE, ())
    assert refused.value.message == report.message
    assert world.routes.called("unload") == []


async def test_plan_within_the_eviction_limit_is_carried_out() -> None:
    world = make_world(6, 3900, routed("big", 23000), max_evictions=6)
    await world.start()

    grant = await world.arbiter.acquire(client(), "big", AcquireOptions(timeout_sec=60))

    assert len(grant.evicted) == 6
    assert ooms(world) == 0


async def test_largest_victims_are_chosen_when_lru_needs_too_many() -> None:
    world = make_world(6, 1500, routed("large", 12000), routed("big", 12000))
    world.routes.place("large", 12000)
    await world.start()
    lease = (await world.arbiter.acquire(client(), "large", AcquireOptions())).lease
    await world.arbiter.release(lease.id)  # the most recently used one

    grant = await world.arbiter.acquire(client(), "big", AcquireOptions(timeout_sec=60))

    assert grant.evicted == ("large",)
    assert all(residency(world, f"v{number}") == "resident" for number in range(6))


async def test_failed_evictions_count_against_the_limit() -> None:
    world = make_world(5, 4000, routed("big", 6000), max_evictions=2)
    for number in range(3):
        world.routes.consumer(f"v{number}").lies = True
    await world.start()

    with pytest.raises(EvictionFailed, match="released no VRAM when evicted"):
        await world.arbiter.acquire(client(), "big", AcquireOptions(timeout_sec=300))

    assert world.routes.called("unload") == ["v0", "v1"]


async def test_waiting_manual_loads_are_limited_like_other_requests() -> None:
    world = FakeWorld([routed("a", 20000), routed("b", 20000)])
    world.vram.read_sec = READ_SEC
    world.routes.place("a", 20000)
    await world.start()
    await world.arbiter.acquire(client(), "a", AcquireOptions())

    loads = [asyncio.create_task(world.arbiter.load("b", "", 60.0)) for _ in range(700)]
    await world.clock.settle()

    assert world.arbiter.summary().queue_length == 512
    refused = [load for load in loads if load.done() and isinstance(load.exception(), LimitsExceeded)]
    assert len(refused) == 700 - 512
    with pytest.raises(LimitsExceeded, match="512 requests are waiting"):
        await world.arbiter.acquire(client(2), "b", AcquireOptions())
    for load in loads:
        load.cancel()


async def test_token_returns_its_lease_even_at_the_lease_limit() -> None:
    world = FakeWorld([routed("a", 100)], scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    world.routes.place("a", 100)
    await world.start()
    grants = [await world.arbiter.acquire(client(), "a", AcquireOptions(token=f"t{number}")) for number in range(64)]

    again = await world.arbiter.acquire(client(), "a", AcquireOptions(token="t63"))

    assert again.lease.id == grants[63].lease.id
    with pytest.raises(LimitsExceeded):
        await world.arbiter.acquire(client(), "a", AcquireOptions(token="t64"))


async def test_request_without_evictions_left_waits_without_planning_repeatedly() -> None:
    """A past bug: the plan was decided with and without earlier evictions in turn, once per reading, without end."""
    world = FakeWorld(
        [routed("old", 4000), routed("idle", 4000), routed("lent", 6000), routed("big", 13000)],
        scheduler=SchedulerSettings(max_evictions=1, concurrent_leases=0),
    )
    world.vram.read_sec = READ_SEC
    for name, mib in (("old", 4000), ("idle", 4000), ("lent", 6000)):
        world.routes.place(name, mib)
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "lent", AcquireOptions())).lease
    world.routes.consumer("old").unload_sec = 5.0
    acquiring = asyncio.create_task(world.arbiter.acquire(client(2), "big", AcquireOptions(timeout_sec=300)))
    await world.clock.advance_until(lambda: world.routes.called("unload") != [])
    hold_foreign_memory(world, 3000)  # a game starts during the only eviction, which does not suffice any more
    await world.clock.sleep(20)
    reads = world.vram.reads

    await world.clock.sleep(60)

    assert len(world.routes.called("unload")) == 1
    assert world.vram.reads - reads <= 5, "without events there are no readings"
    assert not acquiring.done()
    await world.arbiter.release(lease.id)
    with pytest.raises(InsufficientVram):
        await acquiring
