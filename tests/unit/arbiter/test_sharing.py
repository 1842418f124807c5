"""Leases that share a device, which is the default, and the turn of a client that waits for another consumer."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

LONG = AcquireOptions(timeout_sec=3600)
NUMBERS = count(1)


async def use(world: FakeWorld, name: str, seconds: float) -> float:
    """Acquire, work and release; returns the seconds waited."""
    began = world.clock.monotonic()
    grant = await world.arbiter.acquire(client(next(NUMBERS)), name, LONG)
    waited_sec = world.clock.monotonic() - began
    await world.clock.sleep(seconds)
    await world.arbiter.release(grant.lease.id)
    return waited_sec


async def test_sixteen_clients_of_one_consumer_work_at_the_same_time() -> None:
    world = FakeWorld([routed("chat", 14000)])
    await world.start()
    await use(world, "chat", 1.0)
    began = world.clock.monotonic()

    await asyncio.gather(*(use(world, "chat", 10.0) for _ in range(16)))

    assert world.clock.monotonic() - began < 11.0


async def test_consumers_that_fit_side_by_side_are_leased_at_the_same_time() -> None:
    world = FakeWorld([routed("chat", 9000), routed("voice", 3000)])
    await world.start()

    await world.arbiter.acquire(client(1), "chat", LONG)
    await world.arbiter.acquire(client(2), "voice", LONG)

    assert {lease.consumer for lease in world.arbiter.status().leases} == {"chat", "voice"}


@pytest.mark.parametrize("policy", list(Policy))
async def test_stream_of_leases_on_one_consumer_does_not_starve_a_request_for_another(policy: Policy) -> None:
    world = FakeWorld(
        [routed("chat", 14000), routed("image", 14000)],
        scheduler=SchedulerSettings(policy=policy, overtake_budget_sec=30.0),
    )
    await world.start()
    await use(world, "chat", 3.0)

    async def chat_for_ever() -> None:
        while True:
            await use(world, "chat", 3.0)

    stream = [asyncio.create_task(chat_for_ever()) for _ in range(4)]
    await world.clock.sleep(20.0)
    waited_sec = await use(world, "image", 1.0)
    for task in stream:
        task.cancel()
    await asyncio.gather(*stream, return_exceptions=True)

    # 30 s of work in four parallel leases, what is running at the end of it, and one eviction and load.
    assert waited_sec < 30.0


async def test_pairs_of_clients_take_turns_and_no_request_times_out() -> None:
    world = FakeWorld([routed("chat", 14000), routed("image", 14000)])
    for name in ("chat", "image"):
        world.routes.consumer(name).load_sec = 4.0
    await world.start()

    async def ten_requests(name: str) -> None:
        for _ in range(10):
            grant = await world.arbiter.acquire(client(next(NUMBERS)), name, AcquireOptions(timeout_sec=20))
            await world.clock.sleep(1.5)
            await world.arbiter.release(grant.lease.id)
            await world.clock.sleep(0.5)

    await asyncio.gather(*(ten_requests(name) for name in ("chat", "image", "chat", "image")))

    assert world.arbiter.status().stats.loads <= 10


async def test_request_with_a_short_timeout_ends_the_turn_of_another_in_time() -> None:
    world = FakeWorld([routed("chat", 14000), routed("image", 14000)], scheduler=SchedulerSettings(min_turn_sec=3600.0))
    await world.start()
    for name in ("chat", "image"):
        await use(world, name, 1.0)
        await world.clock.sleep(5.0)

    async def image_for_ever() -> None:
        while True:
            await use(world, "image", 0.5)
            await world.clock.sleep(0.2)

    stream = asyncio.create_task(image_for_ever())
    await world.clock.sleep(1.0)
    await world.arbiter.acquire(client(next(NUMBERS)), "chat", AcquireOptions(timeout_sec=20))
    stream.cancel()
    await asyncio.gather(stream, return_exceptions=True)
