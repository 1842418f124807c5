"""Plans that change nothing, and a reload of the configuration."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import NoSuchConsumer
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

# -- plan --------------------------------------------------------------------------------------------------------------


async def test_plan_reports_the_decision_without_changing_anything() -> None:
    world = FakeWorld([routed("a", 20000), routed("b", 9000), routed("p", 1000, pinned=True)])
    world.routes.place("a", 20000)
    world.routes.place("p", 1000)
    await world.start()
    before = world.arbiter.status()

    report = await world.arbiter.plan(client(), "b", AcquireOptions())

    assert (report.verdict, report.load, report.need_mib, report.free_mib) == (Verdict.GRANT, True, 9256, 3564)
    assert [(one.consumer, one.expected_mib, one.method) for one in report.evictions] == [("a", 20000, "http")]
    assert [(one.consumer, one.why) for one in report.spared] == [("p", "pinned")]
    after = world.arbiter.status()
    assert (after.consumers, after.queue, after.stats) == (before.consumers, before.queue, before.stats)
    assert world.routes.called("unload") == []


async def test_plan_behind_waiting_requests_says_so() -> None:
    world = FakeWorld([routed("a", 2000), routed("b", 2000)], scheduler=SchedulerSettings(concurrent_leases=1))
    await world.start()
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=100)))
    await world.clock.sleep(1)

    report = await world.arbiter.plan(client(3), "a", AcquireOptions())

    assert report.verdict is Verdict.WAIT
    await world.arbiter.release(grant.lease.id)
    await waiting


# -- reload ------------------------------------------------------------------------------------------------------------


async def test_reload_keeps_leases_of_a_removed_consumer() -> None:
    world = FakeWorld([routed("a", 2000), routed("b", 2000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions())
    spec = routed("c", 3000)
    world.settings = replace(world.settings, consumers={"b": routed("b", 2500), "c": spec})

    await world.arbiter.reload()

    assert world.arbiter.lease(grant.lease.id) == grant.lease
    with pytest.raises(NoSuchConsumer):
        await world.arbiter.acquire(client(), "a", AcquireOptions())
    assert world.arbiter.consumer_status("b").vram_resident_mib == 2500
    assert (await world.arbiter.acquire(client(), "c", AcquireOptions())).loaded
    await world.arbiter.release(grant.lease.id)
    assert {one.name for one in world.arbiter.status().consumers} == {"b", "c"}


async def test_requests_for_a_removed_consumer_are_refused() -> None:
    world = FakeWorld([routed("a", 2000), routed("b", 2000)], scheduler=SchedulerSettings(concurrent_leases=1))
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=100)))
    await world.clock.sleep(1)
    world.settings = replace(world.settings, consumers={"a": world.settings.consumers["a"]})

    await world.arbiter.reload()

    with pytest.raises(NoSuchConsumer):
        await waiting


async def test_manual_pin_survives_a_reload() -> None:
    world = FakeWorld([routed("a", 2000)])
    await world.start()
    await world.arbiter.pin("a", pinned=True)

    await world.arbiter.reload()

    assert world.arbiter.consumer_status("a").pinned
