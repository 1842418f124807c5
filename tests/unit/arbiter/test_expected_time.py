"""The expected time of a plan: what it promises before and after loads, evictions and leases were observed."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.assumed_times import DEFAULT_HOLD_SEC, DEFAULT_UNLOAD_SEC, Start, default_load_sec
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, hold_foreign_memory, residency, routed

OPTIONS = AcquireOptions(timeout_sec=600.0)


async def hold(world: FakeWorld, name: str, seconds: float) -> None:
    grant = await world.arbiter.acquire(client(1), name, OPTIONS)
    await world.clock.sleep(seconds)
    await world.arbiter.release(grant.lease.id)


async def test_resident_consumer_is_expected_at_once() -> None:
    world = FakeWorld([routed("a", 14000)])
    world.routes.place("a", 14000)
    await world.start()

    plan = await world.arbiter.plan(client(), "a", OPTIONS)

    assert (plan.verdict, plan.expected_sec, plan.victims_sec) == (Verdict.GRANT, 0.0, 0.0)


async def test_first_load_is_estimated_by_size_and_counts_the_eviction() -> None:
    world = FakeWorld([routed("a", 14000), routed("b", 15000)])
    world.routes.place("a", 14000)
    await world.start()

    plan = await world.arbiter.plan(client(), "b", OPTIONS)

    assert [one.consumer for one in plan.evictions] == ["a"]
    assert plan.expected_sec == pytest.approx(DEFAULT_UNLOAD_SEC + default_load_sec(15000, Start.COLD))
    assert plan.victims_sec is not None
    assert 0 < plan.victims_sec <= default_load_sec(14000, Start.COLD)


async def test_observed_loads_and_evictions_replace_the_estimate() -> None:
    world = FakeWorld([routed("a", 14000), routed("b", 15000)])
    world.routes.consumer("a").load_sec = world.routes.consumer("b").load_sec = 3.0
    await world.start()
    for _ in range(2):
        await hold(world, "a", 1.0)
        await hold(world, "b", 1.0)

    plan = await world.arbiter.plan(client(), "a", OPTIONS)
    began = world.clock.monotonic()
    await hold(world, "a", 0.0)

    assert plan.expected_sec == pytest.approx(world.clock.monotonic() - began, abs=1.5)


async def test_unit_that_must_be_started_is_estimated_by_its_own_starts() -> None:
    world = FakeWorld([by_unit("a", 14000)])
    await world.start()

    plan = await world.arbiter.plan(client(), "a", OPTIONS)

    assert plan.expected_sec == pytest.approx(default_load_sec(14000, Start.COLD))


async def test_wait_for_a_lease_is_as_long_as_leases_of_that_consumer_last() -> None:
    world = FakeWorld([routed("a", 14000), routed("b", 15000)])
    await world.start()
    await world.arbiter.acquire(client(1), "a", OPTIONS)
    at_once = await world.arbiter.plan(client(), "b", OPTIONS)
    await world.clock.sleep(4.0)
    later = await world.arbiter.plan(client(), "b", OPTIONS)

    assert at_once.verdict is later.verdict is Verdict.WAIT
    load_sec = default_load_sec(15000, Start.COLD)
    assert at_once.expected_sec == pytest.approx(DEFAULT_HOLD_SEC + load_sec, abs=0.5)
    assert later.expected_sec == pytest.approx(DEFAULT_HOLD_SEC - 4.0 + load_sec, abs=0.5)


async def test_consumer_that_is_loading_is_expected_when_its_load_ends() -> None:
    world = FakeWorld([routed("a", 14000)])
    world.routes.consumer("a").load_sec = 100.0
    await world.start()
    acquiring = asyncio.ensure_future(world.arbiter.acquire(client(1), "a", OPTIONS))
    await world.clock.sleep(5.0)
    assert residency(world, "a") == "loading"

    plan = await world.arbiter.plan(client(), "a", OPTIONS)

    assert plan.expected_sec == pytest.approx(default_load_sec(14000, Start.COLD) - 5.0, abs=0.5)
    await acquiring


async def test_refusal_and_a_wait_without_a_known_end_have_no_expected_time() -> None:
    world = FakeWorld([routed("a", 14000)])
    await world.start()
    hold_foreign_memory(world, 20000)
    refused = await world.arbiter.plan(client(), "a", OPTIONS)

    assert refused.verdict is not Verdict.GRANT
    assert refused.expected_sec is None
