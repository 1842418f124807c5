"""The status of a consumer is made again where anything in it has changed, and only there."""

from __future__ import annotations

import contextlib
import random

import pytest

from gpumand.arbiter.consumer_statuses import ConsumerStatuses
from gpumand.domain.errors import GpumandError
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, kill_consumer, routed


@pytest.mark.parametrize("seed", range(6))
async def test_kept_statuses_equal_new_ones_on_random_demand(seed: int) -> None:
    draw = random.Random(seed)
    specs = [routed(f"c{number}", draw.choice((2000, 6000, 9000))) for number in range(4)]
    world = FakeWorld(specs, total_mib=draw.choice(((24564,), (16384, 16384))))
    await world.start()
    leases: list[str] = []
    for number in range(60):
        with contextlib.suppress(GpumandError):
            await act(world, draw, leases, number)
        await world.clock.sleep(draw.choice((0.0, 0.1, 3.0)))
        assert world.arbiter.status().consumers == ConsumerStatuses(world.arbiter.state).all()
    await world.arbiter.stop("end")


async def act(world: FakeWorld, draw: random.Random, leases: list[str], number: int) -> None:
    what, name = draw.random(), f"c{draw.randrange(4)}"
    if what < 0.4:
        grant = await world.arbiter.acquire(client(number), name, AcquireOptions(timeout_sec=20.0))
        leases.append(grant.lease.id)
    elif what < 0.6 and leases:
        await world.arbiter.release(leases.pop())
    elif what < 0.7:
        await world.arbiter.evict(name, True, 5.0)
    elif what < 0.8:
        await world.arbiter.pin(name, draw.random() < 0.5)
    elif what < 0.9:
        hold_foreign_memory(world, draw.choice((100, 3000)))
        await world.arbiter.state.sample()
    else:
        kill_consumer(world, name)
        await world.arbiter.state.sample()
        world.arbiter.reconciler.reconcile_all()


async def test_status_of_an_unchanged_consumer_is_the_same_object() -> None:
    world = FakeWorld([routed("a", 2000), routed("b", 2000)])
    await world.start()
    before = world.arbiter.status().consumers
    world.arbiter.state.ledger.update("a", pinned=True)
    await world.arbiter.state.sample()
    after = world.arbiter.status().consumers
    assert after[0] is not before[0]
    assert after[0].pinned
    assert after[1] is before[1]
    assert world.arbiter.consumer_status("b") is before[1]
