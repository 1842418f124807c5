"""The policy adaptive in the arbiter: who goes, who passes whom, and what is loaded beside a lease."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings
from gpumand.domain.learning import Learned, Start
from gpumand.domain.lease import Lease
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, occupy, residency, routed
from tests.unit.arbiter.test_storm import storm

LONG = AcquireOptions(timeout_sec=3600)


def made(*specs: object, policy: Policy = Policy.ADAPTIVE, **more: object) -> FakeWorld:
    world = FakeWorld(specs, scheduler=SchedulerSettings(policy=policy, **more))  # type: ignore[arg-type]
    world.vram.read_sec = READ_SEC
    return world


def teach(world: FakeWorld, name: str, *, load_sec: float = 5.0, hold_sec: float = 5.0) -> None:
    """Let it be known how long things take with a consumer."""
    times = Learned().observe_load(load_sec, Start.PARKED).observe_hold(hold_sec)
    world.arbiter.arbiter_state.ledger.update(name, times=times)
    world.routes.consumer(name).load_sec = load_sec


async def use(world: FakeWorld, name: str, seconds: float = 1.0, number: int = 1, uid: int = 1000) -> Grant:
    grant = await world.arbiter.acquire(client(number, uid=uid), name, LONG)
    await world.clock.sleep(seconds)
    await world.arbiter.release(grant.lease.id)
    return grant


async def held(world: FakeWorld, name: str, number: int = 1) -> Lease:
    return (await world.arbiter.acquire(client(number), name, LONG)).lease


def asking(
    world: FakeWorld, name: str, order: list[str], seconds: float = 5.0, uid: int = 1000, label: str = ""
) -> asyncio.Task[Grant]:
    """Somebody who wants a consumer, works and goes; notes when it was granted."""

    async def ask() -> Grant:
        grant = await world.arbiter.acquire(client(len(order) + 10, uid=uid), name, LONG)
        order.append(label or name)
        await world.clock.sleep(seconds)
        await world.arbiter.release(grant.lease.id)
        return grant

    return asyncio.create_task(ask())


# -- victims -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "victim"), [(Policy.LRU, "dear"), (Policy.ADAPTIVE, "cheap")])
async def test_who_is_brought_back_in_a_second_goes_before_who_takes_a_minute(policy: Policy, victim: str) -> None:
    world = made(routed("dear", 9000), routed("cheap", 9000), routed("new", 9000), policy=policy)
    await world.start()
    teach(world, "dear", load_sec=60.0)
    teach(world, "cheap", load_sec=1.0)
    await use(world, "dear")
    await use(world, "cheap")

    grant = await use(world, "new")

    assert grant.evicted == (victim,)


async def test_the_plan_says_what_a_victim_is_worth() -> None:
    world = made(routed("a", 15000), routed("b", 15000))
    await world.start()
    await use(world, "a")

    plan = await world.arbiter.plan(client(), "b", LONG)

    assert plan.evictions[0].why.startswith("worth least: ")


async def test_who_is_waited_for_is_spared_where_another_will_do() -> None:
    world = made(routed("wanted", 9000), routed("other", 9000), routed("new", 9000), overtake_budget_sec=0.0)
    await world.start()
    for name in ("wanted", "other", "new"):
        teach(world, name)
    await use(world, "wanted")
    await use(world, "other")  # used later: worth more by its last use alone
    order: list[str] = []
    lease = await held(world, "other")
    first, second = asking(world, "new", order), asking(world, "wanted", order)
    await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)

    assert (await first).evicted == ("other",)
    assert (await second).evicted == ()


# -- order -------------------------------------------------------------------------------------------------------------


async def queued(world: FakeWorld, *names: str) -> list[str]:
    """Let all come while something else works; in which order they are granted."""
    order: list[str] = []
    lease = await held(world, "resident")
    tasks = []
    for name in names:
        tasks.append(asking(world, name, order))
        await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)
    await asyncio.gather(*tasks)
    return order


@pytest.mark.parametrize(("policy", "first"), [(Policy.LRU, "absent"), (Policy.ADAPTIVE, "resident")])
async def test_who_asks_for_what_is_resident_passes_who_would_have_to_load(policy: Policy, first: str) -> None:
    world = made(routed("resident", 15000), routed("absent", 15000), policy=policy)
    await world.start()
    teach(world, "resident")
    teach(world, "absent")

    assert (await queued(world, "absent", "resident"))[0] == first


async def test_nobody_is_passed_by_more_than_the_budget() -> None:
    world = made(routed("resident", 15000), routed("absent", 15000), overtake_budget_sec=12.0)
    await world.start()
    teach(world, "resident", hold_sec=5.0)
    teach(world, "absent")

    order = await queued(world, "absent", *["resident"] * 6)

    assert order[:3] == ["resident", "resident", "absent"], "two of five seconds each, a third would be fifteen"


async def test_nobody_is_passed_by_more_while_the_clock_is_set_back() -> None:
    world = made(routed("resident", 15000), routed("absent", 15000), overtake_budget_sec=12.0)
    await world.start()
    teach(world, "resident", hold_sec=5.0)
    teach(world, "absent")

    async def set_back() -> None:
        while True:
            await world.clock.sleep(1)
            world.clock.step_realtime(-100)

    setting = asyncio.create_task(set_back())
    order = await queued(world, "absent", *["resident"] * 6)
    setting.cancel()

    assert order[:3] == ["resident", "resident", "absent"]


async def test_who_works_longer_than_expected_uses_the_budget_up() -> None:
    world = made(routed("resident", 15000), routed("absent", 15000), overtake_budget_sec=12.0)
    await world.start()
    teach(world, "resident", hold_sec=2.0)
    teach(world, "absent")

    order = await queued(world, "absent", *["resident"] * 8)

    assert order.index("absent") <= 3, "each took five seconds, not the two that were expected"


async def test_a_higher_priority_is_not_passed() -> None:
    world = made(routed("resident", 15000), routed("absent", 15000, priority=10))
    await world.start()
    teach(world, "resident")
    teach(world, "absent")

    assert (await queued(world, "absent", "resident"))[0] == "absent"


@pytest.mark.parametrize(("policy", "place"), [(Policy.LRU, 5), (Policy.ADAPTIVE, 2)])
async def test_a_second_user_does_not_wait_behind_all_that_the_first_one_asked_for(policy: Policy, place: int) -> None:
    world = made(routed("one", 1000), policy=policy)
    await world.start()
    teach(world, "one", hold_sec=5.0)
    order: list[str] = []
    lease = await held(world, "one")
    many = [asking(world, "one", order, uid=1, label="greedy") for _ in range(5)]
    await world.clock.sleep(0.1)
    late = asking(world, "one", order, uid=2, label="modest")
    await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)
    await asyncio.gather(*many, late)

    assert order.index("modest") <= place
    assert policy is Policy.ADAPTIVE or order.index("modest") == place


# -- loading beside a lease --------------------------------------------------------------------------------------------


async def test_the_next_is_loaded_beside_a_lease_and_granted_when_that_ends() -> None:
    world = made(routed("a", 9000), routed("b", 9000), overlap=Overlap.ON)
    await world.start()
    teach(world, "a")
    teach(world, "b", load_sec=8.0)
    lease = await held(world, "a")
    order: list[str] = []
    asked = asking(world, "b", order)
    await world.clock.sleep(15.0)

    assert residency(world, "b") == "resident"
    assert order == [], "there is one slot, and it is taken"

    released_at = world.clock.monotonic()
    await world.arbiter.release(lease.id)
    grant = await asked
    assert grant.loaded
    assert grant.waited_usec / 1e6 < released_at + 1.0


async def test_nothing_is_loaded_beside_a_lease_unless_it_is_allowed() -> None:
    world = made(routed("a", 9000), routed("b", 9000))
    await world.start()
    lease = await held(world, "a")
    asked = asking(world, "b", [])
    await world.clock.sleep(30.0)

    assert residency(world, "b") == "unloaded"
    await world.arbiter.release(lease.id)
    await asked


async def test_what_does_not_fit_beside_a_lease_waits_for_its_end() -> None:
    world = made(routed("a", 15000), routed("b", 15000), overlap=Overlap.ON)
    await world.start()
    lease = await held(world, "a")
    asked = asking(world, "b", [])
    await world.clock.sleep(30.0)

    assert residency(world, "b") == "unloaded"
    assert residency(world, "a") == "resident"
    await world.arbiter.release(lease.id)
    assert (await asked).evicted == ("a",)


async def test_a_load_beside_a_lease_evicts_nobody_who_is_waited_for() -> None:
    world = made(routed("a", 6000), routed("wanted", 9000), routed("b", 15000), overlap=Overlap.ON)
    await world.start()
    for name in ("a", "wanted", "b"):
        teach(world, name)
    await use(world, "wanted")
    lease = await held(world, "a")
    order: list[str] = []
    tasks = [asking(world, "wanted", order), asking(world, "b", order)]
    await world.clock.sleep(30.0)

    assert residency(world, "wanted") == "resident"
    await world.arbiter.release(lease.id)
    await asyncio.gather(*tasks)
    assert order == ["wanted", "b"]


async def test_who_is_loaded_beside_a_lease_and_gives_up_leaves_it_resident_and_nothing_promised() -> None:
    world = made(routed("a", 9000), routed("b", 9000), overlap=Overlap.ON)
    await world.start()
    lease = await held(world, "a")
    asked = asking(world, "b", [])
    await world.clock.sleep(1.0)
    asked.cancel()
    await world.clock.sleep(60.0)

    assert residency(world, "b") == "resident"
    assert [one.name for one in world.arbiter.arbiter_state.ledger.consumers.values() if one.claimed] == ["a"]
    await world.arbiter.release(lease.id)


@pytest.mark.parametrize("slots", [0, 1, 3])
@pytest.mark.parametrize("overlap", list(Overlap))
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_promised_twice_under_adaptive_either(slots: int, overlap: Overlap, seed: int) -> None:
    asyncio.run(storm(seed, slots, faults=False, policy=Policy.ADAPTIVE, overlap=overlap))


@pytest.mark.parametrize("slots", [0, 1])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nor_among_consumers_that_lie_and_fail(slots: int, seed: int) -> None:
    asyncio.run(storm(seed, slots, faults=True, policy=Policy.ADAPTIVE, overlap=Overlap.ON))


async def test_nobody_loads_beside_a_lease_on_figures_that_are_older_than_its_request() -> None:
    world = made(routed("a", 9000), routed("b", 9000), overlap=Overlap.ON)
    await world.start()
    lease = await held(world, "a")
    await world.clock.sleep(10.0)
    occupy(world, 14000)  # there is no room beside the lease any more, and nobody has read that yet
    asked = asking(world, "b", [])
    await world.clock.sleep(5.0)

    assert residency(world, "b") == "unloaded"
    occupy(world, 0)
    await world.arbiter.arbiter_state.sample()
    world.arbiter.scheduler.step()
    await world.clock.sleep(10.0)
    assert residency(world, "b") == "resident", "and it is loaded as soon as there is"
    await world.arbiter.release(lease.id)
    await asked


async def test_no_load_begins_beside_a_lease_while_somebody_waits_to_evict_by_hand() -> None:
    world = made(routed("a", 6000), routed("b", 6000), routed("c", 6000), overlap=Overlap.ON)
    await world.start()
    lease = await held(world, "a")
    first = asking(world, "b", [])
    await world.clock.sleep(0.5)
    by_hand = asyncio.create_task(world.arbiter.evict("b", force=False, timeout_sec=600.0))
    second = asking(world, "c", [])
    await by_hand

    assert residency(world, "c") == "unloaded"
    await world.arbiter.release(lease.id)
    await asyncio.gather(first, second)


async def test_who_asks_for_much_and_leaves_again_does_not_come_before_its_time() -> None:
    world = made(routed("one", 1000))
    await world.start()
    teach(world, "one", hold_sec=10.0)
    lease = await held(world, "one")
    order: list[str] = []
    many = [asking(world, "one", order, uid=1, label="greedy") for _ in range(40)]
    await world.clock.sleep(0.1)
    for one in many[12:]:
        one.cancel()
    await world.clock.sleep(0.1)
    greedy = asking(world, "one", order, uid=1, label="greedy again")
    await world.clock.sleep(20.0)
    modest = asking(world, "one", order, uid=2, label="modest")
    await world.clock.sleep(0.1)
    await world.arbiter.release(lease.id)
    await asyncio.gather(*many[:12], greedy, modest)

    assert order.index("modest") < order.index("greedy again")
