"""Decisions that waiting requests share: never older than the ledger, and never with another request's failures."""

from __future__ import annotations

from gpumand.arbiter.decision_cache import VRAM_READING, DecisionCache
from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.decision import Requirement
from gpumand.domain.errors import DeviceUnavailable
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, routed


async def world_of() -> FakeWorld:
    world = FakeWorld([routed("a", 9000), routed("b", 20000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    return world


async def test_equal_requirements_share_a_decision_until_the_ledger_changes() -> None:
    world = await world_of()
    cache = DecisionCache(world.arbiter.state)
    before, view = cache.decide(Requirement("b"), frozenset()), cache.view()
    assert cache.decide(Requirement("b"), frozenset()) is before
    assert cache.view() is view

    hold_foreign_memory(world, 10000)
    await world.arbiter.state.sample()

    assert cache.view() is not view
    assert (before.verdict, cache.decide(Requirement("b"), frozenset()).verdict) == (Verdict.GRANT, Verdict.REFUSE)


async def test_cleared_cache_sees_the_time_although_the_ledger_has_not_changed() -> None:
    world = await world_of()
    cache = DecisionCache(world.arbiter.state)
    before = cache.view()
    await world.clock.sleep(5.0)
    assert cache.view().now == before.now

    cache.clear()

    assert cache.view().now == before.now + 5.0


async def test_failed_eviction_of_one_request_says_nothing_about_others() -> None:
    world = await world_of()
    await world.arbiter.load("a", "", 60)
    cache = DecisionCache(world.arbiter.state)
    shared = cache.decide(Requirement("b"), frozenset())

    own = cache.decide(Requirement("b"), {"a"})

    assert [one.consumer for one in shared.evictions] == ["a"]
    assert own.verdict is Verdict.REFUSE
    assert cache.decide(Requirement("b"), frozenset()) is shared


async def test_wait_for_a_reading_keeps_the_reason_of_a_wait_and_names_the_reading_of_a_grant() -> None:
    world = await world_of()
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    cache = DecisionCache(world.arbiter.state)
    blocked = cache.decide(Requirement("b"), frozenset())
    free = cache.decide(Requirement("a"), frozenset())

    assert cache.wait_for_reading(Requirement("b"), blocked).message == blocked.message
    waiting = cache.wait_for_reading(Requirement("a"), free)

    assert (waiting.verdict, waiting.message, waiting.error) == (Verdict.WAIT, VRAM_READING, DeviceUnavailable)
    assert cache.wait_for_reading(Requirement("a"), free) is waiting
