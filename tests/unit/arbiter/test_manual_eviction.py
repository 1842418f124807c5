"""Load, Evict, Pin, and idle consumers."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import EvictionMethod, Route, SchedulerSettings
from gpumand.domain.errors import Busy, EvictionFailed, InvalidArgs, NoSuchConsumer, TimedOut
from gpumand.domain.events import EvictionOccurred, LeaseEnded
from gpumand.domain.lease import LeaseEnd
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, kill_consumer, residency, routed

# -- Load --------------------------------------------------------------------------------------------------------------


async def test_load_makes_room_and_loads_without_a_lease() -> None:
    world = FakeWorld([routed("a", 20000), routed("b", 20000)])
    world.routes.place("a", 20000)
    await world.start()

    outcome = await world.arbiter.load("b", "", 60.0)

    assert (outcome.changed, outcome.evicted, outcome.device) == (True, ("a",), "0")
    assert world.arbiter.status().leases == ()
    assert not world.arbiter.state.consumer("b").claimed
    assert not (await world.arbiter.load("b", "", 60.0)).changed


async def test_load_does_not_need_a_slot_but_never_evicts_under_a_lease() -> None:
    world = FakeWorld([routed("a", 12000), routed("b", 6000), routed("c", 20000)])
    await world.start()
    await world.arbiter.acquire(client(), "a", AcquireOptions())

    assert (await world.arbiter.load("b", "", 60.0)).changed
    with pytest.raises(TimedOut):
        await world.arbiter.load("c", "", 10.0)
    assert residency(world, "a") == "resident"


async def test_load_of_a_resident_consumer_does_not_queue() -> None:
    world = FakeWorld([routed("a", 12000), routed("b", 6000), routed("c", 20000)])
    world.routes.place("b", 6000)
    await world.start()
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "c", AcquireOptions(timeout_sec=60.0)))
    await world.clock.sleep(1.0)

    outcome = await world.arbiter.load("b", "", 0.0)

    assert (outcome.changed, outcome.device, outcome.evicted) == (False, "0", ())
    with pytest.raises(TimedOut):
        await waiting


# -- Evict -------------------------------------------------------------------------------------------------------------


async def test_evict_frees_memory_and_reports_the_amount() -> None:
    world = FakeWorld([routed("a", 9000)])
    world.routes.place("a", 9000)
    await world.start()

    outcome = await world.arbiter.evict("a", False, 20.0)

    assert (outcome.changed, outcome.method, outcome.freed_mib) == (True, "http", 9000)
    (event,) = [event for event in world.events if isinstance(event, EvictionOccurred)]
    assert event.report.trigger == "manual"
    assert not (await world.arbiter.evict("a", False, 20.0)).changed


async def test_evict_with_one_method_tries_no_other() -> None:
    spec = by_unit("a", 9000, url="http://127.0.0.1:1", unload=Route("/unload"))
    spec = replace(spec, evict=(EvictionMethod.HTTP, EvictionMethod.UNIT_STOP))
    world = FakeWorld([spec])
    await world.start()
    await world.arbiter.load("a", "", 60.0)
    world.routes.place("a", 9000).lies = True
    await world.arbiter.state.sample()

    with pytest.raises(EvictionFailed):
        await world.arbiter.evict("a", False, 60.0, "http")
    assert ("stop", "a.service") not in world.units.calls
    world.units.units["a.service"].stopped = lambda: kill_consumer(world, "a")
    assert (await world.arbiter.evict("a", False, 60.0, "unit-stop")).method == "unit-stop"
    with pytest.raises(InvalidArgs, match="its eviction methods: http and unit-stop"):
        await world.arbiter.evict("a", False, 60.0, "checkpoint")


async def test_evicting_a_leased_consumer_needs_force_and_revokes_the_lease() -> None:
    world = FakeWorld([routed("a", 9000)])
    await world.start()
    await world.arbiter.acquire(client(), "a", AcquireOptions())

    with pytest.raises(Busy, match="force"):
        await world.arbiter.evict("a", False, 20.0)
    assert residency(world, "a") == "resident"
    await world.arbiter.evict("a", True, 20.0)

    assert residency(world, "a") == "unloaded"
    assert [event.reason for event in world.events if isinstance(event, LeaseEnded)] == [LeaseEnd.REVOKED]


async def test_forced_eviction_that_fails_says_that_the_leases_are_gone() -> None:
    world = FakeWorld([routed("liar", 9000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    for number in range(2):
        await world.arbiter.acquire(client(number), "liar", AcquireOptions())
    world.routes.consumer("liar").lies = True

    with pytest.raises(
        EvictionFailed, match=r"became free within 10 s\. Its 2 leases were revoked\. Check the unload route"
    ):
        await world.arbiter.evict("liar", True, 20.0)


async def test_evicting_a_pinned_consumer_needs_force() -> None:
    world = FakeWorld([routed("a", 9000)])
    world.routes.place("a", 9000)
    await world.start()
    await world.arbiter.pin("a", pinned=True)

    with pytest.raises(Busy, match="pinned"):
        await world.arbiter.evict("a", False, 20.0)
    await world.arbiter.pin("a", pinned=False)
    assert (await world.arbiter.evict("a", False, 20.0)).changed


async def test_evict_reports_a_failure_and_an_impossible_eviction() -> None:
    world = FakeWorld([routed("liar", 9000), routed("none", 100, unload=None, evict=())])
    world.routes.place("liar", 9000).lies = True
    world.routes.place("none", 100)
    await world.start()

    with pytest.raises(EvictionFailed, match=r"0 of 9000 MiB .*\. Check the .*: gpumanctl show "):
        await world.arbiter.evict("liar", False, 60.0)
    with pytest.raises(EvictionFailed, match="no unload route"):
        await world.arbiter.evict("none", False, 60.0)
    with pytest.raises(NoSuchConsumer):
        await world.arbiter.evict("unknown", False, 60.0)
    assert residency(world, "liar") == "resident"


async def test_evict_waits_for_a_running_load_within_its_timeout() -> None:
    world = FakeWorld([routed("a", 9000), routed("b", 9000)])
    world.routes.place("b", 9000)
    world.routes.consumer("a").load_sec = 30.0
    await world.start()
    loading = asyncio.create_task(world.arbiter.load("a", "", 60.0))
    await world.clock.sleep(1.0)

    with pytest.raises(TimedOut, match=r"in use by the job for a\. Wait longer with option 'timeout_usec'\."):
        await world.arbiter.evict("b", False, 5.0)
    assert (await world.arbiter.evict("b", False, 60.0)).changed
    await loading
    assert world.routes.called("unload") == ["b"]


# -- idleness ----------------------------------------------------------------------------------------------------------


async def test_an_idle_consumer_is_evicted_after_its_timeout_counted_from_its_last_lease() -> None:
    world = FakeWorld([routed("a", 9000, idle_timeout_sec=60.0)])
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions())
    await world.clock.sleep(100)
    assert residency(world, "a") == "resident", "leased is not idle"
    await world.arbiter.release(grant.lease.id)

    await world.clock.sleep(57)
    assert residency(world, "a") == "resident"
    await world.clock.sleep(10)

    assert residency(world, "a") == "unloaded"
    (event,) = [event for event in world.events if isinstance(event, EvictionOccurred)]
    assert event.report.trigger == "idle"
    housekeeping.cancel()


async def test_pinned_consumer_is_not_evicted_for_idleness() -> None:
    world = FakeWorld([routed("a", 9000, idle_timeout_sec=10.0, pinned=True)])
    world.routes.place("a", 9000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    await world.clock.sleep(100)

    assert residency(world, "a") == "resident"
    housekeeping.cancel()
