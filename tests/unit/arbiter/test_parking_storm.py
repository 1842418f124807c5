"""Random clients of consumers that park: no host RAM or VRAM is reserved twice, and every request is served."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import ooms
from tests.unit.arbiter.parking_setup import make_world, mark_running, sleeper


async def storm(seed: int, policy: Policy) -> None:
    """Random clients: no host RAM or VRAM is reserved twice, and every request is served."""
    draw = random.Random(seed)
    ram_mib = draw.choice([0, 6000, 12000, 30000])
    specs = [sleeper(f"c{number}", draw.randrange(2000, 14000)) for number in range(6)]
    specs = [one if draw.random() < 0.7 else replace(one, parks=False) for one in specs]
    scheduler = SchedulerSettings(concurrent_leases=draw.choice([0, 1]), policy=policy)
    sizes = draw.choice([(24564,), (16000, 24564)])
    world = make_world(*specs, ram_mib=ram_mib, scheduler=scheduler, total_mib=sizes)
    world.routes.where = lambda name: world.arbiter.state.consumer(name).devices
    for spec in specs:
        fake = world.routes.consumer(spec.name)
        fake.load_sec, fake.unload_sec = draw.uniform(0.1, 5), draw.uniform(0.05, 2)
        fake.parks_mib = spec.vram_resident_mib if spec.parks else 0
        if not spec.parks:
            world.units.units[spec.unit].stopped = lambda name=spec.name: world.routes.die(name)  # type: ignore[misc]
            world.units.units[spec.unit].started = lambda name=spec.name: mark_running(world, name)  # type: ignore[misc]
    most_mib = 0

    def check_reservations(event: object) -> None:
        nonlocal most_mib
        world.events.append(event)  # type: ignore[arg-type]
        most_mib = max(most_mib, sum(one.host_mib for one in world.routes.consumers.values()))

    world.arbiter.state.publish = check_reservations
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    async def one_client(number: int) -> None:
        own = random.Random(f"{seed}/{number}")
        for _ in range(6):
            await world.clock.sleep(own.uniform(0, 5))
            name = f"c{own.randrange(6)}"
            grant = await world.arbiter.acquire(client(number), name, AcquireOptions(timeout_sec=4 * 3600.0))
            await world.clock.sleep(own.uniform(0, 5))
            await world.arbiter.release(grant.lease.id)

    await asyncio.gather(*(one_client(number) for number in range(1, 7)))
    await world.clock.sleep(60)

    assert most_mib <= ram_mib, f"seed {seed}"
    assert ooms(world) == 0, f"seed {seed}"
    assert not world.arbiter.state.ledger.jobs, f"seed {seed}"
    housekeeping.cancel()


@pytest.mark.parametrize("policy", list(Policy))
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_host_ram_is_never_reserved_twice(policy: Policy, seed: int) -> None:
    asyncio.run(storm(seed, policy))
