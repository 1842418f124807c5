"""Random hosts with up to six devices: every request is served, and no memory is reserved twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Policy, SchedulerSettings
from gpumand.domain.device import parse_devices
from gpumand.domain.errors import GpumandError, InsufficientVram
from gpumand.domain.events import EvictionOccurred
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.domain.residency_states import Residency
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, kill_consumer, ooms, reports, routed

SIZES_MIB = [8192, 16384, 24564]
CLIENTS, TURNS = 8, 4
LONGEST_SEC = 4 * 3600.0
"""Seconds after which a request that is neither served nor refused counts as stuck."""


@dataclass
class Watch:
    """Checks the invariants after every event and records violations."""

    world: FakeWorld
    sizes: tuple[int, ...]
    slots: int
    wrongs: list[str] = field(default_factory=list)

    def check(self, _: object) -> None:
        ledger = self.world.arbiter.state.ledger
        for device, size in enumerate(self.sizes):
            promised = [one for one in ledger.consumers.values() if one.claimed and device in one.devices]
            if sum(one.footprint_mib for one in promised) > size:
                self.wrongs.append(f"device {device} is promised twice: {[one.name for one in promised]}")
            working = {lease.id for lease in ledger.leases.values() if device in parse_devices(lease.device)}
            if self.slots and len(working) > self.slots:
                self.wrongs.append(f"{len(working)} leases in {self.slots} slots of device {device}")
        for lease in ledger.leases.values():
            state = ledger.consumers[lease.consumer]
            if parse_devices(lease.device) != state.devices or len(state.devices) != state.spec.device_count:
                self.wrongs.append(f"{lease.consumer} is leased on {lease.device}, and is on {state.devices}")
        for device, job in ledger.jobs.items():
            whole = (*job.devices, *job.extra_devices)
            if device not in whole or any(ledger.jobs.get(one) is not job for one in whole):
                self.wrongs.append(f"the job of {job.consumer} has not all of {whole}")
        self._check_jobs()

    def _check_jobs(self) -> None:
        """A consumer is loaded or evicted by one job that has all of its devices."""
        ledger = self.world.arbiter.state.ledger
        for one in ledger.consumers.values():
            if one.residency in (Residency.LOADING, Residency.UNLOADING) and not one.external_load:
                own = [job for job in ledger.jobs.values() if one.name == job.consumer or one.name in job.evicting]
                if any(ledger.jobs.get(device) not in own for device in one.devices):
                    self.wrongs.append(f"{one.name} is {one.residency} on a device of another job")


def make_world(draw: random.Random, slots: int, policy: Policy) -> tuple[FakeWorld, tuple[int, ...]]:
    sizes = tuple(draw.choice(SIZES_MIB) for _ in range(draw.randrange(1, 7)))
    specs: list[ConsumerSpec] = []
    for number in range(8):
        named = draw.random() < 0.3
        count = draw.randrange(1, len(sizes) + 1)
        places = tuple(str(one) for one in draw.sample(range(len(sizes)), draw.randrange(count, len(sizes) + 1)))
        more: dict[str, object] = {"device_count": count, "devices": places if named else ()}
        if draw.random() < 0.3:
            more |= {"unit": f"c{number}.service", "evict": (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)}
        specs.append(routed(f"c{number}", draw.randrange(500, 16000), **more))
    scheduler = SchedulerSettings(concurrent_leases=slots, settle_timeout_sec=3.0, policy=policy)
    world = FakeWorld(specs, scheduler=scheduler, total_mib=sizes)
    world.routes.where = lambda name: world.arbiter.state.consumer(name).devices
    for spec in specs:
        consumer = world.routes.consumer(spec.name)
        consumer.load_sec, consumer.unload_sec = draw.uniform(0.1, 8), draw.uniform(0.05, 2)
        consumer.load_steps, consumer.early_unload = draw.randrange(1, 4), draw.random() < 0.5
        if spec.unit:
            world.units.units[spec.unit].stopped = lambda name=spec.name: kill_consumer(world, name)  # type: ignore[misc]
            world.units.units[spec.unit].started = lambda name=spec.name: _mark_running(world, name)  # type: ignore[misc]
    return world, sizes


def _mark_running(world: FakeWorld, name: str) -> None:
    world.routes.consumer(name).running = True


async def one_client(world: FakeWorld, number: int, draw: random.Random, ends: Counter[str]) -> None:
    """Acquire, work and release several times, waiting as long as necessary."""
    for _ in range(TURNS):
        await world.clock.sleep(draw.uniform(0, 5))
        options = AcquireOptions(LeaseLifetime.CONNECTION, timeout_sec=LONGEST_SEC, priority=draw.randrange(-9, 9))
        try:
            grant = await world.arbiter.acquire(client(number, uid=number), f"c{draw.randrange(8)}", options)
        except GpumandError as error:
            ends[type(error).__name__] += 1
            continue
        ends["granted"] += 1
        await world.clock.sleep(draw.uniform(0, 6))
        await world.arbiter.release(grant.lease.id)


async def storm(seed: int, slots: int, policy: Policy) -> None:
    draw = random.Random(seed)
    world, sizes = make_world(draw, slots, policy)
    world.vram.read_sec = READ_SEC
    watch = Watch(world, sizes, slots)
    world.arbiter.state.publish = lambda event: (world.events.append(event), watch.check(event))  # type: ignore[func-returns-value, assignment]
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    ends: Counter[str] = Counter()

    await asyncio.gather(*(one_client(world, at, random.Random(f"{seed}/{at}"), ends) for at in range(CLIENTS)))
    await world.clock.sleep(300)

    assert watch.wrongs == [], f"seed {seed}"
    assert ends.total() == CLIENTS * TURNS, f"seed {seed}: {ends}"
    assert set(ends) <= {"granted", InsufficientVram.__name__}, (
        f"seed {seed}: every request that can fit is served: {ends}"
    )
    assert not world.arbiter.state.ledger.jobs, f"seed {seed}"
    assert not [one.name for one in world.arbiter.state.ledger.consumers.values() if one.claimed], f"seed {seed}"
    assert ooms(world) == 0, f"seed {seed}: no load ran out of memory"
    assert all(one.verified and one.freed_mib > 0 for one in reports(world, EvictionOccurred)), f"seed {seed}"
    housekeeping.cancel()


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("slots", [0, 1, 2])
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_every_request_that_fits_is_served_and_no_memory_is_reserved_twice(
    slots: int, policy: Policy, seed: int
) -> None:
    asyncio.run(storm(seed, slots, policy))
