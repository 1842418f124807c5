"""The policy adaptive in the arbiter: choice of victims, overtaking, and loads that overlap with leases."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.lease import Lease
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, hold_foreign_memory, residency, routed
from tests.unit.arbiter.test_storm import storm

LONG = AcquireOptions(timeout_sec=3600)


def make_world(*specs: object, policy: Policy = Policy.ADAPTIVE, **more: object) -> FakeWorld:
    chosen = {"concurrent_leases": 1, "min_turn_sec": 0.0, **more}
    world = FakeWorld(specs, scheduler=SchedulerSettings(policy=policy, **chosen))  # type: ignore[arg-type]
    world.vram.read_sec = READ_SEC
    return world


def set_learned_times(world: FakeWorld, name: str, *, load_sec: float = 5.0, hold_sec: float = 5.0) -> None:
    """Set the learned durations of a consumer."""
    times = LearnedTimes().observe_load(load_sec, Start.PARKED).observe_hold(hold_sec)
    world.arbiter.state.ledger.update(name, times=times)
    world.routes.consumer(name).load_sec = load_sec


async def use(world: FakeWorld, name: str, seconds: float = 1.0, number: int = 1, uid: int = 1000) -> Grant:
    grant = await world.arbiter.acquire(client(number, uid=uid), name, LONG)
    await world.clock.sleep(seconds)
    await world.arbiter.release(grant.lease.id)
    return grant


async def acquire_lease(world: FakeWorld, name: str, number: int = 1) -> Lease:
    return (await world.arbiter.acquire(client(number), name, LONG)).lease


def start_client(
    world: FakeWorld, name: str, order: list[str], seconds: float = 5.0, uid: int = 1000, label: str = ""
) -> asyncio.Task[Grant]:
    """Start a client that acquires a consumer, works and releases it; it records the order of grants."""

    async def ask() -> Grant:
        grant = await world.arbiter.acquire(client(len(order) + 10, uid=uid), name, LONG)
        order.append(label or name)
        await world.clock.sleep(seconds)
        await world.arbiter.release(grant.lease.id)
        return grant

    return asyncio.create_task(ask())


# -- victims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "victim"), [(Policy.LRU, "dear"), (Policy.ADAPTIVE, "cheap")])
async def test_consumer_that_loads_fast_is_evicted_before_one_that_loads_slowly(policy: Policy, victim: str) -> None:
    world = make_world(routed("dear", 9000), routed("cheap", 9000), routed("new", 9000), policy=policy)
    await world.start()
    set_learned_times(world, "dear", load_sec=60.0)
    set_learned_times(world, "cheap", load_sec=1.0)
    await use(world, "dear")
    await use(world, "cheap")

    grant = await use(world, "new")

    assert grant.evicted == (victim,)


async def test_plan_reports_the_eviction_cost_of_a_victim() -> None:
    world = make_world(routed("a", 15000), routed("b", 15000))
    await world.start()
    await use(world, "a")

    plan = await world.arbiter.plan(client(), "b", LONG)

    assert plan.evictions[0].why.startswith("lowest eviction cost: ")


async def test_requested_consumer_is_spared_when_another_victim_suffices() -> None:
    world = make_world(routed("wanted", 9000), routed("other", 9000), routed("new", 9000), overtake_budget_sec=0.0)
    await world.start()
    for name in ("wanted", "other", "new"):
        set_learned_times(world, name)
    await use(world, "wanted")
    await use(world, "other")  # used later, so that it would be evicted last by lru
    order: list[str] = []
    lease = await acquire_lease(world, "other")
    first, second = start_client(world, "new", order), start_client(world, "wanted", order)
    await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)

    assert (await first).evicted == ("other",)
    assert (await second).evicted == ()


# -- order -------------------------------------------------------------------------------------------------------------


async def grant_order(world: FakeWorld, *names: str) -> list[str]:
    """Queue requests during another lease and return the order in which they are granted."""
    order: list[str] = []
    lease = await acquire_lease(world, "resident")
    tasks = []
    for name in names:
        tasks.append(start_client(world, name, order))
        await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)
    await asyncio.gather(*tasks)
    return order


@pytest.mark.parametrize(("policy", "first"), [(Policy.LRU, "absent"), (Policy.ADAPTIVE, "resident")])
async def test_request_for_a_resident_consumer_overtakes_one_that_needs_a_load(policy: Policy, first: str) -> None:
    world = make_world(routed("resident", 15000), routed("absent", 15000), policy=policy)
    await world.start()
    set_learned_times(world, "resident")
    set_learned_times(world, "absent")

    assert (await grant_order(world, "absent", "resident"))[0] == first


async def test_overtaking_never_exceeds_the_budget() -> None:
    world = make_world(routed("resident", 15000), routed("absent", 15000), overtake_budget_sec=12.0)
    await world.start()
    set_learned_times(world, "resident", hold_sec=5.0)
    set_learned_times(world, "absent")

    order = await grant_order(world, "absent", *["resident"] * 6)

    assert order[:3] == ["resident", "resident", "absent"], (
        "two leases of 5 s each; a third would exceed the budget with 15 s"
    )


async def test_overtaking_budget_holds_when_the_wall_clock_is_set_back() -> None:
    world = make_world(routed("resident", 15000), routed("absent", 15000), overtake_budget_sec=12.0)
    await world.start()
    set_learned_times(world, "resident", hold_sec=5.0)
    set_learned_times(world, "absent")

    async def set_back() -> None:
        while True:
            await world.clock.sleep(1)
            world.clock.step_realtime(-100)

    setting = asyncio.create_task(set_back())
    order = await grant_order(world, "absent", *["resident"] * 6)
    setting.cancel()

    assert order[:3] == ["resident", "resident", "absent"]


async def test_lease_longer_than_expected_uses_up_the_budget() -> None:
    world = make_world(routed("resident", 15000), routed("absent", 15000), overtake_budget_sec=12.0)
    await world.start()
    set_learned_times(world, "resident", hold_sec=2.0)
    set_learned_times(world, "absent")

    order = await grant_order(world, "absent", *["resident"] * 8)

    assert order.index("absent") <= 3, "each lease took 5 s instead of the expected 2 s"


async def test_request_with_higher_priority_is_not_overtaken() -> None:
    world = make_world(routed("resident", 15000), routed("absent", 15000, priority=10))
    await world.start()
    set_learned_times(world, "resident")
    set_learned_times(world, "absent")

    assert (await grant_order(world, "absent", "resident"))[0] == "absent"


@pytest.mark.parametrize(("policy", "place"), [(Policy.LRU, 5), (Policy.ADAPTIVE, 2)])
async def test_second_user_does_not_wait_behind_all_requests_of_the_first(policy: Policy, place: int) -> None:
    world = make_world(routed("one", 1000), policy=policy)
    await world.start()
    set_learned_times(world, "one", hold_sec=5.0)
    order: list[str] = []
    lease = await acquire_lease(world, "one")
    many = [start_client(world, "one", order, uid=1, label="greedy") for _ in range(5)]
    await world.clock.sleep(0.1)
    late = start_client(world, "one", order, uid=2, label="modest")
    await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)
    await asyncio.gather(*many, late)

    assert order.index("modest") <= place
    assert policy is Policy.ADAPTIVE or order.index("modest") == place


# -- loads that overlap with a lease -----------------------------------------------------------------------------------


async def test_next_consumer_is_loaded_during_a_lease_and_granted_when_it_ends() -> None:
    world = make_world(routed("a", 9000), routed("b", 9000), overlap=Overlap.ON)
    await world.start()
    set_learned_times(world, "a")
    set_learned_times(world, "b", load_sec=8.0)
    lease = await acquire_lease(world, "a")
    order: list[str] = []
    asked = start_client(world, "b", order)
    await world.clock.sleep(15.0)

    assert residency(world, "b") == "resident"
    assert order == [], "the only lease slot is taken"

    released_at = world.clock.monotonic()
    await world.arbiter.release(lease.id)
    grant = await asked
    assert grant.loaded
    assert grant.waited_usec / 1e6 < released_at + 1.0


async def test_no_load_overlaps_with_a_lease_unless_configured() -> None:
    world = make_world(routed("a", 9000), routed("b", 9000))
    await world.start()
    lease = await acquire_lease(world, "a")
    asked = start_client(world, "b", [])
    await world.clock.sleep(30.0)

    assert residency(world, "b") == "unloaded"
    await world.arbiter.release(lease.id)
    await asked


async def test_load_that_does_not_fit_during_a_lease_waits_for_its_end() -> None:
    world = make_world(routed("a", 15000), routed("b", 15000), overlap=Overlap.ON)
    await world.start()
    lease = await acquire_lease(world, "a")
    asked = start_client(world, "b", [])
    await world.clock.sleep(30.0)

    assert residency(world, "b") == "unloaded"
    assert residency(world, "a") == "resident"
    await world.arbiter.release(lease.id)
    assert (await asked).evicted == ("a",)


async def test_overlapping_load_evicts_no_requested_consumer() -> None:
    world = make_world(routed("a", 6000), routed("wanted", 9000), routed("b", 15000), overlap=Overlap.ON)
    await world.start()
    for name in ("a", "wanted", "b"):
        set_learned_times(world, name)
    await use(world, "wanted")
    lease = await acquire_lease(world, "a")
    order: list[str] = []
    tasks = [start_client(world, "wanted", order), start_client(world, "b", order)]
    await world.clock.sleep(30.0)

    assert residency(world, "wanted") == "resident"
    await world.arbiter.release(lease.id)
    await asyncio.gather(*tasks)
    assert order == ["wanted", "b"]


async def test_abandoned_overlapping_load_leaves_the_consumer_resident_without_a_reservation() -> None:
    world = make_world(routed("a", 9000), routed("b", 9000), overlap=Overlap.ON)
    await world.start()
    lease = await acquire_lease(world, "a")
    asked = start_client(world, "b", [])
    await world.clock.sleep(1.0)
    asked.cancel()
    await world.clock.sleep(60.0)

    assert residency(world, "b") == "resident"
    assert [one.name for one in world.arbiter.state.ledger.consumers.values() if one.claimed] == ["a"]
    await world.arbiter.release(lease.id)


@pytest.mark.parametrize("slots", [0, 1, 3])
@pytest.mark.parametrize("overlap", list(Overlap))
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_memory_is_reserved_twice_under_adaptive(slots: int, overlap: Overlap, seed: int) -> None:
    asyncio.run(storm(seed, slots, faults=False, policy=Policy.ADAPTIVE, overlap=overlap))


@pytest.mark.parametrize("slots", [0, 1])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_no_memory_is_reserved_twice_under_adaptive_with_faulty_consumers(slots: int, seed: int) -> None:
    asyncio.run(storm(seed, slots, faults=True, policy=Policy.ADAPTIVE, overlap=Overlap.ON))


async def test_overlapping_load_needs_a_reading_newer_than_its_request() -> None:
    world = make_world(routed("a", 9000), routed("b", 9000), overlap=Overlap.ON)
    await world.start()
    lease = await acquire_lease(world, "a")
    await world.clock.sleep(10.0)
    hold_foreign_memory(world, 14000)  # memory is full now, which no reading has shown yet
    asked = start_client(world, "b", [])
    await world.clock.sleep(5.0)

    assert residency(world, "b") == "unloaded"
    hold_foreign_memory(world, 0)
    await world.arbiter.state.sample()
    world.arbiter.scheduler.step()
    await world.clock.sleep(10.0)
    assert residency(world, "b") == "resident", "it is loaded as soon as memory is free"
    await world.arbiter.release(lease.id)
    await asked


async def test_no_overlapping_load_starts_while_a_manual_eviction_waits() -> None:
    world = make_world(routed("a", 6000), routed("b", 6000), routed("c", 6000), overlap=Overlap.ON)
    await world.start()
    lease = await acquire_lease(world, "a")
    first = start_client(world, "b", [])
    await world.clock.sleep(0.5)
    manual = asyncio.create_task(world.arbiter.evict("b", force=False, timeout_sec=600.0))
    second = start_client(world, "c", [])
    await manual

    assert residency(world, "c") == "unloaded"
    await world.arbiter.release(lease.id)
    await asyncio.gather(first, second)


async def test_user_that_leaves_the_queue_gains_no_advantage() -> None:
    world = make_world(routed("one", 1000))
    await world.start()
    set_learned_times(world, "one", hold_sec=10.0)
    lease = await acquire_lease(world, "one")
    order: list[str] = []
    many = [start_client(world, "one", order, uid=1, label="greedy") for _ in range(40)]
    await world.clock.sleep(0.1)
    for one in many[12:]:
        one.cancel()
    await world.clock.sleep(0.1)
    greedy = start_client(world, "one", order, uid=1, label="greedy again")
    await world.clock.sleep(20.0)
    modest = start_client(world, "one", order, uid=2, label="modest")
    await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)
    await asyncio.gather(*many[:12], greedy, modest)

    assert order.index("modest") < order.index("greedy again")
