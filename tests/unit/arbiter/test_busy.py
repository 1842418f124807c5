"""Busy consumers in virtual time: checked before an eviction, waited for, and not interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gpumand.domain.consumer import BusyAfter, BusyRoute, ConsumerSpec, EvictionMethod, HealthRoute
from gpumand.domain.errors import Busy, TimedOut
from gpumand.domain.events import EvictionFailed, EvictionOccurred
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import reports, residency, routed

IMAGE_MIB, LLM_MIB = 13312, 14000
QUEUE = BusyRoute("/queue", ("/running",))


def image(**more: object) -> ConsumerSpec:
    return routed("image", IMAGE_MIB, busy=QUEUE, **more)


async def at_work(*specs: ConsumerSpec, jobs: int | None = 2) -> FakeWorld:
    """A busy image service and further configured consumers."""
    world = FakeWorld(specs)
    world.routes.place("image", IMAGE_MIB)
    world.routes.consumer("image").jobs = jobs
    await world.start()
    return world


@asynccontextmanager
async def housekeeping(world: FakeWorld) -> AsyncIterator[None]:
    task = asyncio.create_task(world.housekeeping.run())
    yield
    task.cancel()


async def test_busy_victim_is_evicted_when_its_work_is_done() -> None:
    world = await at_work(image(), routed("llm", LLM_MIB))
    async with housekeeping(world):
        acquire = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=4000)))
        await world.clock.sleep(1200)
        (waiting,) = world.arbiter.status().queue
        assert waiting.waiting_for == "image is busy (2 jobs)"
        assert world.arbiter.consumer_status("image").busy is True
        assert world.routes.called("unload") == []
        world.routes.consumer("image").jobs = 0
        began = world.clock.monotonic()

        grant = await acquire

        assert grant.evicted == ("image",)
        assert world.clock.monotonic() - began < 5.0  # noticed within about a second, then unloaded and loaded


async def test_timeout_error_names_the_busy_consumer() -> None:
    world = await at_work(image(), routed("llm", LLM_MIB))

    with pytest.raises(TimedOut, match=r"image is busy \(2 jobs\)"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))
    with pytest.raises(Busy, match=r"image is busy \(2 jobs\)"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=0))
    assert world.routes.called("unload") == []


async def test_victim_is_asked_again_right_before_its_eviction() -> None:
    world = await at_work(image(), routed("llm", LLM_MIB), jobs=0)
    world.routes.consumer("image").jobs = 1

    with pytest.raises(TimedOut, match=r"image is busy \(1 job\)"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert world.routes.called("unload") == []
    assert reports(world, EvictionFailed) == []
    assert residency(world, "image") == "resident"


async def test_another_victim_is_evicted_when_the_first_is_busy() -> None:
    world = FakeWorld([image(), routed("other", 10000), routed("llm", 9000)])
    world.routes.place("image", IMAGE_MIB)
    world.routes.place("other", 10000, last_used_usec=1)
    await world.start()
    world.routes.consumer("image").jobs = 1

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert grant.evicted == ("other",)


async def test_second_method_is_not_tried_on_a_victim_that_became_busy() -> None:
    # The unload is refused (409) since a job arrived at that moment; stopping the unit would kill that job.
    both = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
    world = await at_work(image(unit="image.service", evict=both), routed("llm", LLM_MIB), jobs=0)
    await world.units.start("image.service", 10)
    server = world.routes.consumer("image")
    server.unload_error = "in use"

    async def job_comes() -> None:
        while not world.routes.called("unload"):
            await world.clock.sleep(0.01)
        server.jobs = 1

    async with housekeeping(world):
        coming = asyncio.create_task(job_comes())
        acquire = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=600)))
        await world.clock.sleep(100)
        assert (await world.units.state("image.service")).activity == "active"
        assert [one.waiting_for for one in world.arbiter.status().queue] == ["image is busy (1 job)"]
        (failed,) = reports(world, EvictionFailed)
        assert failed.error.endswith("in use; no other method was tried: busy (1 job)")
        server.jobs, server.unload_error = 0, ""

        assert (await acquire).evicted == ("image",)
        await coming


async def test_busy_victim_is_evicted_after_its_grace_period() -> None:
    world = await at_work(image(busy_grace_sec=60, busy_after=BusyAfter.EVICT), routed("llm", LLM_MIB))
    async with housekeeping(world):
        began = world.clock.monotonic()

        grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=300))

        assert grant.evicted == ("image",)
        assert 60 <= world.clock.monotonic() - began < 70


async def test_grace_period_continues_across_repeated_requests() -> None:
    world = await at_work(image(busy_grace_sec=60, busy_after=BusyAfter.EVICT), routed("llm", LLM_MIB))
    async with housekeeping(world):
        tries = 0
        while not world.routes.called("unload"):
            tries += 1
            try:
                await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))
            except TimedOut:
                await world.clock.sleep(3)

        assert tries == 3


async def test_grace_period_restarts_when_no_request_needed_the_memory() -> None:
    world = await at_work(image(busy_grace_sec=60, busy_after=BusyAfter.EVICT), routed("llm", LLM_MIB))
    async with housekeeping(world):
        with pytest.raises(TimedOut):
            await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))
        await world.clock.sleep(3600)

        with pytest.raises(TimedOut, match=r"evicted in 4\d s"):
            await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))


async def test_requests_are_refused_at_once_after_the_grace_period() -> None:
    world = await at_work(image(busy_grace_sec=60, busy_after=BusyAfter.REFUSE), routed("llm", LLM_MIB))
    async with housekeeping(world):
        began = world.clock.monotonic()

        with pytest.raises(Busy, match=r"is still busy .* after its busy_grace_sec of"):
            await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=3000))

        assert 60 <= world.clock.monotonic() - began < 65


async def test_consumer_that_stops_answering_counts_as_busy_for_its_grace_period() -> None:
    world = await at_work(image(busy_grace_sec=30), routed("llm", LLM_MIB))
    async with housekeeping(world):
        acquire = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=300)))
        await world.clock.sleep(5)
        world.routes.consumer("image").jobs = None
        began = world.clock.monotonic()

        assert (await acquire).evicted == ("image",)
        assert 28 <= world.clock.monotonic() - began < 40


async def test_manual_eviction_of_a_busy_consumer_needs_force() -> None:
    world = await at_work(image())

    with pytest.raises(Busy, match=r"image is busy \(2 jobs\)\. Use the option 'force' to evict it anyway\."):
        await world.arbiter.evict("image", False, 20.0)
    assert world.routes.called("unload") == []

    outcome = await world.arbiter.evict("image", True, 20.0)
    assert (outcome.method, world.routes.called("unload")) == ("http", ["image"])


async def test_idle_time_starts_when_it_was_last_observed_busy() -> None:
    world = await at_work(image(idle_timeout_sec=100.0))
    async with housekeeping(world):
        await world.clock.sleep(1000)
        assert world.routes.called("unload") == []
        used_usec = world.arbiter.consumer_status("image").last_used_usec
        assert world.clock.realtime_usec() - used_usec <= 110_000_000, "asked each time when its idle time had passed"
        world.routes.consumer("image").jobs = 0
        await world.clock.sleep(110)
        assert world.routes.called("unload") == ["image"]


async def test_unloaded_consumer_gets_no_busy_check() -> None:
    world = FakeWorld([image()])
    await world.start()
    world.routes.calls.clear()
    async with housekeeping(world):
        await world.clock.sleep(60)

    assert "image" in world.routes.called("probe_health")
    assert world.routes.called("probe_busy") == []
    assert world.arbiter.consumer_status("image").busy is None


async def test_consumer_without_a_health_check_gets_busy_checks() -> None:
    spec = routed("image", IMAGE_MIB, busy=QUEUE, health=None)
    world = await at_work(spec, routed("llm", LLM_MIB))
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=3))

    assert world.arbiter.consumer_status("image").busy is True


async def test_busy_state_does_not_carry_over_to_the_next_stay() -> None:
    world = await at_work(image())
    await world.arbiter.evict("image", True, 20.0)
    world.routes.consumer("image").jobs = None

    await world.arbiter.load("image", "", 60.0)

    assert world.arbiter.consumer_status("image").busy is None
    assert (await world.arbiter.evict("image", False, 20.0)).changed
    assert len(reports(world, EvictionOccurred)) == 2


async def test_plan_lists_consumers_spared_because_they_are_busy() -> None:
    world = await at_work(image(), routed("llm", LLM_MIB))

    plan = await world.arbiter.plan(client(), "llm", AcquireOptions())

    assert (plan.verdict, plan.message) == ("wait", "image is busy (2 jobs)")
    assert [(one.consumer, one.why) for one in plan.spared] == [("image", "busy (2 jobs)")]


async def test_busy_check_is_not_sent_without_need() -> None:
    world = await at_work(image(), routed("llm", LLM_MIB), jobs=0)
    async with housekeeping(world):
        await world.clock.sleep(600)
        grant = await world.arbiter.acquire(client(1), "image", AcquireOptions())
        await world.arbiter.release(grant.lease.id)
        await world.clock.sleep(600)
        assert world.routes.called("probe_busy") == []

        await world.arbiter.acquire(client(2), "llm", AcquireOptions())

        assert world.routes.called("probe_busy") == ["image"]


async def test_busy_answer_is_forgotten_when_no_request_waits_any_more() -> None:
    world = await at_work(image(), routed("llm", LLM_MIB), jobs=1)
    async with housekeeping(world):
        with pytest.raises(TimedOut):
            await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=10))
        await world.clock.sleep(10)
        asked = len(world.routes.called("probe_busy"))
        await world.clock.sleep(600)

        assert len(world.routes.called("probe_busy")) == asked
        assert world.arbiter.consumer_status("image").busy is None
        world.routes.consumer("image").jobs = 0
        grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
        assert grant.waited_usec / 1e6 < 5.0


async def test_idle_eviction_asks_once_when_its_time_has_come() -> None:
    world = await at_work(image(idle_timeout_sec=60.0), jobs=1)
    async with housekeeping(world):
        await world.clock.sleep(100)
        assert world.routes.called("unload") == []
        assert world.routes.called("probe_busy") == ["image"]
        world.routes.consumer("image").jobs = 0
        await world.clock.sleep(60)

        assert world.routes.called("unload") == ["image"]


async def test_busy_check_does_not_wake_a_sleeping_server() -> None:
    health = HealthRoute("/health", loaded="/loaded", sleeping="/asleep")
    world = await at_work(image(health=health), routed("llm", LLM_MIB), jobs=0)
    world.routes.consumer("image").sleeping = True  # and no health check has seen it yet

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert grant.evicted == ("image",)
    assert world.routes.consumer("image").sleeping


async def test_sleeping_server_is_busy_while_clients_are_connected() -> None:
    health = HealthRoute("/health", loaded="/loaded", sleeping="/asleep")
    world = await at_work(image(health=health), routed("llm", LLM_MIB), jobs=1)
    world.routes.consumer("image").sleeping = True

    with pytest.raises(TimedOut, match="image is busy"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=1))

    assert world.routes.consumer("image").sleeping
