"""The simulation engine and the arbiter with fakes make the same decisions for the same demand."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gpumand.domain.consumer import EvictionMethod, Overlap, Policy, SchedulerSettings
from gpumand.domain.events import EvictionOccurred
from gpumand.domain.request import AcquireOptions
from gpumand.simulation.demand import OpenDemand, Use
from gpumand.simulation.engine import Engine
from gpumand.simulation.host import SimulatedConsumer, SimulatedHost
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

LONG = AcquireOptions(timeout_sec=86400)
SIZES = {"a": 6000, "b": 10500, "c": 8500, "d": 4600, "e": 16500}


def demand(seed: int) -> list[Use]:
    """Requests at odd times, so that delays of tenths of a second in the daemon do not change their order."""
    random, t, uses = Random(seed), 0.0, []
    for _ in range(40):
        t += random.choice([7.3, 13.7, 31.9, 67.1])
        uses.append(Use(t, random.choice(list(SIZES)), random.choice([11.0, 23.0, 3.0])))
    return uses


def host() -> SimulatedHost:
    random = Random(7)
    specs = [routed(name, mib, evict=(EvictionMethod.HTTP,)) for name, mib in SIZES.items()]
    return SimulatedHost(
        {one.name: SimulatedConsumer(one, random.choice([4.0, 9.0, 21.0]), 1.0) for one in specs}, (24564,)
    )


async def run_arbiter(settings: SchedulerSettings, uses: list[Use]) -> tuple[list[int], list[str]]:
    """Numbers of the granted requests and names of the evicted consumers, each in order."""
    consumers = host().consumers
    world = FakeWorld([one.spec for one in consumers.values()], scheduler=settings)
    for name, one in consumers.items():
        world.routes.consumer(name).load_sec = one.load_sec
        world.routes.consumer(name).unload_sec = one.unload_sec
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    granted: list[int] = []

    async def use(number: int, wanted: Use) -> None:
        await world.clock.sleep(wanted.t)
        grant = await world.arbiter.acquire(client(number + 1), wanted.consumer, LONG)
        granted.append(number)
        await world.clock.sleep(wanted.hold_sec)
        await world.arbiter.release(grant.lease.id)

    await asyncio.gather(*(use(number, wanted) for number, wanted in enumerate(uses)))
    housekeeping.cancel()
    return granted, [one.report.consumer for one in world.named(EvictionOccurred)]


def run_engine(settings: SchedulerSettings, uses: list[Use]) -> tuple[list[int], list[str]]:
    engine = Engine(host(), settings, OpenDemand(uses))
    outcome = engine.run()
    places = range(len(uses))
    order = sorted(places, key=lambda place: outcome.served[place].granted_at or 0.0)
    return order, outcome.evicted


@pytest.mark.parametrize(
    ("policy", "overlap"), [(Policy.LRU, Overlap.OFF), (Policy.ADAPTIVE, Overlap.OFF), (Policy.ADAPTIVE, Overlap.ON)]
)
@pytest.mark.parametrize("seed", range(6))
def test_engine_and_arbiter_grant_and_evict_in_the_same_order(seed: int, policy: Policy, overlap: Overlap) -> None:
    settings = SchedulerSettings(policy=policy, overlap=overlap)
    uses = demand(seed)

    assert run_engine(settings, uses) == asyncio.run(run_arbiter(settings, uses)), f"seed {seed}"
