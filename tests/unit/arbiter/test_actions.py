"""Evictions and loads with fakes: calls, verification and error messages."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import EvictionMethod, HealthRoute, SchedulerSettings, UnitActivity
from gpumand.domain.errors import (
    ConsumerBackingOff,
    EvictionFailed,
    InsufficientVram,
    LoadFailed,
    TimedOut,
)
from gpumand.domain.events import EvictionFailed as Failed
from gpumand.domain.request import AcquireOptions
from gpumand.ports import UnitFailed
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, hold_foreign_memory, kill_consumer, reports, residency, routed

IMAGE_MIB, VOICE_MIB = 13312, 2867


def _failure(line: str) -> UnitFailed:
    return UnitFailed(line, "failed")


def _appear(world: FakeWorld, name: str, mib: int, after_sec: float) -> None:
    async def later() -> None:
        await world.clock.sleep(after_sec)
        world.routes.consumer(name).running = True
        world.routes.place(name, mib)

    world.arbiter.scheduler.background.spawn(later())


@pytest.fixture
def pair() -> FakeWorld:
    return FakeWorld([routed("image", IMAGE_MIB), routed("voice", VOICE_MIB)])


# -- verified eviction -----------------------------------------------------------------------------------------------


async def test_unit_is_stopped_when_the_unload_route_frees_nothing() -> None:
    liar = routed("liar", 20000, unit="liar.service", evict=(EvictionMethod.HTTP, EvictionMethod.UNIT_STOP))
    world = FakeWorld([liar, routed("voice", 8000)])
    world.routes.place("liar", 20000).lies = True
    world.units.become("liar.service", UnitActivity.ACTIVE)
    world.units.units["liar.service"].stopped = lambda: kill_consumer(world, "liar")
    await world.start()
    began = world.clock.monotonic()

    grant = await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=100))

    assert grant.evicted == ("liar",)
    assert (reports(world)[0].method, reports(world)[0].tried) == ("unit-stop", ("http", "unit-stop"))
    assert world.clock.monotonic() - began > 10, "the settle timeout has to pass before the next method"


async def test_failed_eviction_is_announced_and_the_next_victim_is_tried() -> None:
    world = FakeWorld([routed("liar", 9000), routed("honest", 9000), routed("voice", 8000)])
    world.routes.place("liar", 9000).lies = True
    world.routes.place("honest", 9000)
    await world.start()
    await world.arbiter.release((await world.arbiter.acquire(client(), "honest", AcquireOptions())).lease.id)

    grant = await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=100))

    assert grant.evicted == ("honest",)
    assert [report.consumer for report in reports(world, Failed)] == ["liar"]
    stats = world.arbiter.status().stats
    assert (stats.evictions, stats.eviction_failures) == (1, 1)
    assert residency(world, "liar") == "resident", "it still holds its memory, and the status shows that"


async def test_nothing_is_loaded_when_no_memory_became_free() -> None:
    world = FakeWorld([routed("liar", 20000), routed("voice", 8000)])
    world.routes.place("liar", 20000).lies = True
    await world.start()

    with pytest.raises(EvictionFailed, match="liar released no VRAM when evicted"):
        await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=100))

    assert world.routes.called("load") == []
    assert world.arbiter.status().leases == ()


async def test_load_starts_within_100_ms_after_memory_is_freed_asynchronously() -> None:
    world = FakeWorld([routed("slow", 20000), routed("voice", 8000)])
    slow = world.routes.place("slow", 20000)
    slow.early_unload, slow.unload_sec = True, 4.0
    await world.start()

    await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=100))

    (unload,) = [call.at for call in world.routes.calls if call.verb == "unload"]
    (load,) = [call.at for call in world.routes.calls if call.verb == "load"]
    assert 0 <= load - (unload + 4.0) <= 0.1
    assert world.routes.consumer("voice").ooms == 0


async def test_number_of_evictions_per_request_is_limited() -> None:
    liars = [routed(f"liar{number}", 3000) for number in range(7)]
    world = FakeWorld([*liars, routed("voice", 4000)], scheduler=SchedulerSettings(max_evictions=3))
    for spec in liars:
        world.routes.place(spec.name, 3000).lies = True
    hold_foreign_memory(world, 3000)
    await world.start()

    with pytest.raises(EvictionFailed):
        await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=300))

    assert world.routes.called("unload") == ["liar0", "liar1"], "two evictions before, so two more would make four"


async def test_victim_pinned_after_the_plan_is_not_evicted() -> None:
    world = FakeWorld([routed("a", 11000), routed("b", 11000), routed("big", 20000)])
    world.routes.place("a", 11000)
    world.routes.place("b", 11000)
    await world.start()

    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "big", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: "a" in world.routes.called("unload"))
    await world.arbiter.pin("b", pinned=True)
    with pytest.raises(InsufficientVram, match="pinned"):
        await acquiring

    assert world.routes.called("unload") == ["a"]
    assert residency(world, "b") == "resident"


async def test_victim_that_crashes_during_eviction_counts_as_evicted() -> None:
    world = FakeWorld([routed("frail", 9000), routed("next", 9000), routed("voice", 8000)])
    world.routes.place("frail", 9000)
    world.routes.place("next", 9000)
    world.routes.consumer("frail").unload_error = "connection reset"
    await world.start()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: "frail" in world.routes.called("unload"))
    await world.clock.sleep(0.2)
    kill_consumer(world, "frail")

    grant = await acquiring

    assert grant.evicted == ("frail",)
    assert world.routes.called("unload") == ["frail"]
    assert world.arbiter.status().stats.eviction_failures == 0


# -- loading -----------------------------------------------------------------------------------------------------------


async def test_load_starts_the_unit_and_waits_for_its_health_check() -> None:
    world = FakeWorld([by_unit("llm", 8000, url="http://127.0.0.1:1", health=HealthRoute("/health"))])
    world.routes.consumer("llm").running = False
    world.units.units["llm.service"].start_delay_sec = 1.0
    world.units.units["llm.service"].started = lambda: _appear(world, "llm", 8000, after_sec=7.0)
    await world.start()
    began = world.clock.monotonic()

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert grant.loaded
    assert world.clock.monotonic() - began >= 8.0


async def test_lazy_consumer_is_granted_at_once_and_its_footprint_stays_reserved() -> None:
    world = FakeWorld(
        [routed("lazy", 13000, load=None, health=None), routed("other", 12000)],
        scheduler=SchedulerSettings(concurrent_leases=0),
    )
    await world.start()

    lease = (await world.arbiter.acquire(client(), "lazy", AcquireOptions())).lease
    assert world.arbiter.status().devices[0].reserved_mib == 13000
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), "other", AcquireOptions(timeout_sec=5))
    world.routes.place("lazy", 13000)
    await world.arbiter.state.sample()
    assert world.arbiter.status().devices[0].reserved_mib == 0

    await world.arbiter.release(lease.id)
    grant = await world.arbiter.acquire(client(2), "other", AcquireOptions(timeout_sec=60))
    assert grant.evicted == ("lazy",)


async def test_failed_load_reports_unit_result_and_log_lines_and_starts_a_backoff() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    unit = world.units.units["llm.service"]
    unit.start_failure, unit.lines = _failure("llm.service failed (exit-code)"), ("CUDA error: out of memory",)
    await world.start()

    with pytest.raises(LoadFailed, match=r"exit-code.*CUDA error: out of memory"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())
    with pytest.raises(ConsumerBackingOff, match="10 s"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())
    assert world.arbiter.consumer_status("llm").retry_usec == world.clock.realtime_usec() + 10_000_000
    assert world.units.calls.count(("start", "llm.service")) == 1

    await world.clock.sleep(10.1)
    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())
    with pytest.raises(ConsumerBackingOff, match="20 s"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())

    await world.clock.sleep(20.1)
    unit.start_failure = None
    await world.arbiter.acquire(client(), "llm", AcquireOptions())
    assert world.arbiter.consumer_status("llm").error == ""
    assert world.arbiter.consumer_status("llm").retry_usec == 0


async def test_load_continues_after_a_timeout_and_the_next_request_joins_it(pair: FakeWorld) -> None:
    pair.routes.consumer("voice").load_sec = 60.0
    await pair.start()

    with pytest.raises(TimedOut, match="voice"):
        await pair.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=20))
    assert residency(pair, "voice") == "loading"
    grant = await pair.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=60))

    assert pair.routes.called("load") == ["voice"]
    assert 39 <= grant.waited_usec / 1e6 <= 41


async def test_request_that_joined_a_load_is_served_before_one_that_would_evict_it() -> None:
    world = FakeWorld([routed("a", 20000), routed("b", 20000)])
    world.routes.consumer("a").load_sec = 30.0
    await world.start()

    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(1), "a", AcquireOptions(timeout_sec=5))
    rival = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)
    grant = await world.arbiter.acquire(client(1), "a", AcquireOptions(timeout_sec=100))

    assert world.routes.called("load") == ["a"]
    await world.arbiter.release(grant.lease.id)
    assert (await rival).evicted == ("a",)


async def test_plan_stops_when_its_client_disconnects() -> None:
    world = FakeWorld([routed("a", 9000), routed("b", 9000), routed("big", 22000)])
    world.routes.place("a", 9000)
    world.routes.place("b", 9000)
    await world.start()

    acquiring = asyncio.create_task(world.arbiter.acquire(client(7), "big", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: "a" in world.routes.called("unload"))
    await world.arbiter.owner_vanished(":1.7")
    with pytest.raises(asyncio.CancelledError):
        await acquiring
    await world.clock.sleep(30)

    assert (world.routes.called("unload"), world.routes.called("load")) == (["a"], [])
    assert world.arbiter.state.ledger.jobs == {}
    assert not world.arbiter.state.consumer("big").claimed
