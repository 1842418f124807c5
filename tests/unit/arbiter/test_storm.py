"""The invariants hold for random sequences of events. Hypothesis drives a world in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, Policy, SchedulerSettings
from gpumand.domain.errors import GpumandError
from gpumand.domain.events import EvictionOccurred
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.domain.residency_states import Residency
from gpumand.ports import RouteFailed
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, kill_consumer, routed

TOTAL_MIB = 24564


@dataclass
class Watch:
    """Checks the invariants after every event and records violations."""

    world: FakeWorld
    slots: int
    wrongs: list[str] = field(default_factory=list)

    def check(self, event: object) -> None:
        ledger = self.world.arbiter.state.ledger
        # A victim's reservation ends with its eviction; a merely reserved one is the next victim.
        self.check_device()
        evicting = {name for job in ledger.jobs.values() for name in job.evicting}
        claimed = [one for one in ledger.consumers.values() if one.claimed and (one.leases or one.name not in evicting)]
        if sum(min(TOTAL_MIB, one.footprint_mib) for one in claimed) > TOTAL_MIB:
            self.wrongs.append(f"promised twice: {[one.name for one in claimed]}")
        if self.slots and len(ledger.leases) > self.slots:
            self.wrongs.append(f"{len(ledger.leases)} leases in {self.slots} slots")
        for one in ledger.consumers.values():
            if one.leases != sum(lease.consumer == one.name for lease in ledger.leases.values()):
                self.wrongs.append(f"{one.name} counts {one.leases} leases")
            is_consumer = one.spec.reservation is None
            if is_consumer and one.leases and one.residency in (Residency.UNLOADING, Residency.UNLOADED):
                self.wrongs.append(f"{one.name} is leased and {one.residency}")
            if one.leases and not one.claimed:
                self.wrongs.append(f"{one.name} is leased and not claimed")
        if isinstance(event, EvictionOccurred) and self.world.arbiter.state.consumer(event.report.consumer).leases:
            self.wrongs.append(f"{event.report.consumer} was evicted under a lease")

    def check_device(self) -> None:
        """Nothing holds more than the device has: the programs of reservations find what they reserved."""
        held_mib = sum(held.process.used_mib or 0 for held in self.world.vram._held if held.seen_until == float("inf"))
        if held_mib > TOTAL_MIB:
            self.wrongs.append(f"{held_mib} MiB are held")


def make_world(draw: random.Random, slots: int, faults: bool, **more_settings: object) -> FakeWorld:
    specs: list[ConsumerSpec] = []
    for number in range(8):
        by_unit = draw.random() < 0.3
        more: dict[str, object] = {"unit": f"c{number}.service"} if by_unit else {}
        methods = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP) if by_unit else (EvictionMethod.HTTP,)
        if draw.random() < 0.2:
            more |= {"load": None, "health": None}
        coexist = frozenset(f"c{draw.randrange(8)}" for _ in range(draw.randrange(3))) - {f"c{number}"}
        specs.append(routed(f"c{number}", draw.randrange(500, 15000), evict=methods, can_coexist_with=coexist, **more))
    scheduler = SchedulerSettings(concurrent_leases=slots, settle_timeout_sec=3.0, **more_settings)  # type: ignore[arg-type]
    world = FakeWorld(specs, scheduler=scheduler)
    for spec in specs:
        consumer = world.routes.consumer(spec.name)
        consumer.load_sec, consumer.unload_sec = draw.uniform(0.1, 8), draw.uniform(0.05, 2)
        consumer.load_steps = draw.randrange(1, 4)
        consumer.early_unload = draw.random() < 0.5
        if faults and draw.random() < 0.3:
            consumer.lies = True
        if faults and draw.random() < 0.2:
            consumer.load_error = "no"
        if spec.unit:
            world.units.units[spec.unit].stopped = lambda name=spec.name: kill_consumer(world, name)  # type: ignore[misc]
            world.units.units[spec.unit].started = lambda name=spec.name: _mark_running(world, name)  # type: ignore[misc]
    return world


def _mark_running(world: FakeWorld, name: str) -> None:
    world.routes.consumer(name).running = True


async def one_client(world: FakeWorld, number: int, draw: random.Random, ends: Counter[str]) -> None:
    """Acquire, work, and release or disconnect, several times."""
    for _ in range(6):
        await world.clock.sleep(draw.uniform(0, 5))
        lifetime = draw.choice([LeaseLifetime.TTL, LeaseLifetime.CONNECTION])
        name = f"c{draw.randrange(8)}"
        spec = world.settings.consumers[name]
        options = AcquireOptions(
            lifetime,
            # A client that works on after its lease has expired may run out of memory; the clients here do not.
            ttl_sec=draw.uniform(1, 30) if spec.load is not None else 60.0,
            timeout_sec=draw.choice([0, 1, 5, 30, 200]),
            priority=draw.randrange(-9, 9),
        )
        ends["asked"] += 1
        dies = False
        acquiring = asyncio.create_task(world.arbiter.acquire(client(number, uid=number), name, options))
        if draw.random() < 0.15:
            await world.clock.sleep(draw.uniform(0, 3))
            dies = True
            await world.arbiter.owner_vanished(f":1.{number}")
        try:
            grant = await acquiring
        except GpumandError as error:
            ends[type(error).__name__] += 1
            continue
        except asyncio.CancelledError:
            ends["vanished"] += 1
            continue
        ends["granted"] += 1
        if dies and grant.lease.id in world.arbiter.state.ledger.leases:
            await world.arbiter.release(grant.lease.id)
        if dies:
            continue
        if spec.load is None:
            with contextlib.suppress(RouteFailed):  # it may be a consumer that fails to load
                await world.routes.work(spec, draw.uniform(0, 3))
        await world.clock.sleep(draw.uniform(0, 6))
        if draw.random() < 0.7 and grant.lease.id in world.arbiter.state.ledger.leases:
            await world.arbiter.release(grant.lease.id)
        else:
            await world.arbiter.owner_vanished(f":1.{number}")


async def one_program(world: FakeWorld, number: int, draw: random.Random, ends: Counter[str]) -> None:
    """Reserve VRAM without a consumer, use it in steps, and release it or disconnect, several times."""
    pid = client(number).pid
    for _ in range(6):
        await world.clock.sleep(draw.uniform(0, 5))
        is_whole, mib = draw.random() < 0.15, draw.randrange(100, 16000)
        amount: dict[str, Any] = {"whole_device": True} if is_whole else {"vram_mib": mib}
        options = AcquireOptions(LeaseLifetime.CONNECTION, timeout_sec=draw.choice([0, 1, 5, 30, 200]), **amount)
        ends["asked"] += 1
        acquiring = asyncio.create_task(world.arbiter.acquire(client(number, uid=number), "", options))
        if draw.random() < 0.15:
            await world.clock.sleep(draw.uniform(0, 3))
            await world.arbiter.owner_vanished(f":1.{number}")
        try:
            grant = await acquiring
        except GpumandError as error:
            ends[type(error).__name__] += 1
            continue
        except asyncio.CancelledError:
            ends["vanished"] += 1
            continue
        ends["granted"] += 1
        for part in (0.3, 1.0, 0.6) if not is_whole else ():
            if grant.lease.id in world.arbiter.state.ledger.leases:
                world.vram.hold(pid, int(mib * part))
                await world.clock.sleep(draw.uniform(0, 4))
        world.vram.release(pid)
        if draw.random() < 0.5 and grant.lease.id in world.arbiter.state.ledger.leases:
            await world.arbiter.release(grant.lease.id)
        else:
            await world.arbiter.owner_vanished(f":1.{number}")


async def storm(seed: int, slots: int, faults: bool, programs: int = 0, **more_settings: object) -> None:
    draw = random.Random(seed)
    world = make_world(draw, slots, faults, **more_settings)
    world.vram.read_sec = READ_SEC
    watch = Watch(world, slots)
    world.arbiter.state.publish = lambda event: (world.events.append(event), watch.check(event))  # type: ignore[func-returns-value, assignment]
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    ends: Counter[str] = Counter()

    clients = [one_client(world, number, random.Random(f"{seed}/{number}"), ends) for number in range(12)]
    reserving = range(12, 12 + programs)
    clients += [one_program(world, number, random.Random(f"{seed}/{number}"), ends) for number in reserving]
    await asyncio.gather(*clients)
    await world.clock.sleep(300)

    assert watch.wrongs == [], f"seed {seed}"
    assert ends.total() == 2 * ends["asked"], f"seed {seed}: every request ends once: {ends}"
    status = world.arbiter.status()
    assert (status.leases, status.queue) == ((), ()), f"seed {seed}: nothing leaks"
    assert not world.arbiter.state.ledger.jobs
    assert not [one.name for one in world.arbiter.state.ledger.consumers.values() if one.claimed], f"seed {seed}"
    announced = [event for event in world.events if isinstance(event, EvictionOccurred)]
    assert len(announced) == status.stats.evictions
    assert all(event.report.verified and event.report.freed_mib > 0 for event in announced), f"seed {seed}"
    assert world.store.leases == {}, f"seed {seed}"
    if not faults:
        assert sum(one.ooms for one in world.routes.consumers.values()) == 0, f"seed {seed}: no load ran out of memory"
        assert ends["granted"] > 0
    housekeeping.cancel()


@pytest.mark.parametrize("slots", [0, 1, 3])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_memory_is_reserved_twice_and_nothing_leaks(slots: int, seed: int) -> None:
    asyncio.run(storm(seed, slots, faults=False))


@pytest.mark.parametrize("slots", [0, 1])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_memory_is_reserved_twice_with_faulty_consumers(slots: int, seed: int) -> None:
    asyncio.run(storm(seed, slots, faults=True))


@pytest.mark.parametrize("policy", [Policy.LRU, Policy.ADAPTIVE])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_programs_that_reserve_vram_find_what_they_reserved(policy: Policy, seed: int) -> None:
    asyncio.run(storm(seed, 0, faults=False, programs=6, policy=policy))
