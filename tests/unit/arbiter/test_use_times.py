"""Learning from requests and ends of leases may wait, and then has the same result."""

from __future__ import annotations

import random

import pytest

from gpumand.arbiter.use_times import UseTimes
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit


def uses_of(world: FakeWorld) -> UseTimes:
    return world.arbiter.learning.uses


def times(world: FakeWorld, name: str = "tts") -> LearnedTimes:
    return world.arbiter.state.consumer(name).times


async def lease_for(world: FakeWorld, seconds: float, name: str = "tts") -> None:
    grant = await world.arbiter.acquire(client(), name, AcquireOptions())
    await world.clock.sleep(seconds)
    await world.arbiter.release(grant.lease.id)


async def test_postponed_learning_is_scheduled_once_and_done_when_it_is_due() -> None:
    world, scheduled = FakeWorld([by_unit("tts", 1000)]), list[str]()
    await world.start()
    uses_of(world).postpone(lambda: scheduled.append("learn"))
    await lease_for(world, 4)
    await world.clock.sleep(60)
    await lease_for(world, 4)
    assert (times(world).hold.count, sum(times(world).idle.counts), scheduled) == (0, 0, ["learn"])

    uses_of(world).learn_noted()
    assert (times(world).hold.count, sum(times(world).idle.counts)) == (2, 1)
    await lease_for(world, 4)
    assert scheduled == ["learn", "learn"]


async def test_what_is_noted_is_learned_before_it_is_stored() -> None:
    world = FakeWorld([by_unit("tts", 1000)])
    await world.start()
    uses_of(world).postpone(lambda: None)
    await lease_for(world, 4)
    world.arbiter.learning.save()

    assert world.archive.learned["tts"]["times"]["hold"][2] == 1


async def test_consumer_that_is_gone_when_its_lease_is_learned_from_is_left_out() -> None:
    world = FakeWorld([by_unit("tts", 1000), by_unit("llm", 1000)])
    await world.start()
    uses_of(world).postpone(lambda: None)
    await lease_for(world, 4)
    await lease_for(world, 4, "llm")
    del world.arbiter.state.ledger._consumers["tts"]
    uses_of(world).learn_noted()

    assert times(world, "llm").hold.count == 1


@pytest.mark.parametrize("seed", range(5))
async def test_learning_soon_after_each_reply_equals_learning_at_once(seed: int) -> None:
    learned = []
    for is_postponed in (False, True):
        draw, world = random.Random(seed), FakeWorld([by_unit("tts", 1000), by_unit("llm", 1000)])
        await world.start()
        if is_postponed:
            uses_of(world).postpone(lambda: None)
        for _ in range(60):
            grants = [
                await world.arbiter.acquire(client(), draw.choice(("tts", "llm")), AcquireOptions())
                for _ in range(draw.randrange(1, 4))
            ]
            uses_of(world).learn_noted()
            await world.clock.sleep(draw.choice((0.1, 3, 50)))
            for grant in grants:
                await world.arbiter.release(grant.lease.id)
            uses_of(world).learn_noted()
            await world.clock.sleep(draw.choice((0.1, 3, 50)))
        learned.append((times(world), times(world, "llm")))

    assert learned[0] == learned[1]
    assert learned[0][0].hold.count > 10
