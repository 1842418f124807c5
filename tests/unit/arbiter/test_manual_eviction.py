"""Load, Evict, Pin, idle consumers, reloads, and external changes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import EvictionMethod, HealthRoute, Route, SchedulerSettings, UnitActivity
from gpumand.domain.errors import Busy, DeviceUnavailable, EvictionFailed, InvalidArgs, NoSuchConsumer, TimedOut
from gpumand.domain.events import EvictionOccurred, LeaseEnded
from gpumand.domain.lease import LeaseEnd
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, hold_foreign_memory, kill_consumer, residency, routed

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


# -- external changes --------------------------------------------------------------------------------------------------


async def test_health_answer_overrides_the_recorded_residency() -> None:
    world = FakeWorld([routed("a", 9000)])
    world.routes.place("a", 9000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    assert residency(world, "a") == "resident"

    consumer = world.routes.consumer("a")
    consumer.loaded, consumer.held_mib = False, 0
    world.vram.release(consumer.pid)
    await world.clock.sleep(6)

    assert residency(world, "a") == "unloaded"
    housekeeping.cancel()


async def test_crashed_unit_is_unloaded_and_loaded_by_the_next_acquire() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    await world.start()
    await world.arbiter.watch_units()
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.clock.sleep(1)
    world.units.become("llm.service", UnitActivity.FAILED, "oom-kill")

    assert residency(world, "llm") == "unloaded"
    assert world.arbiter.consumer_status("llm").error == "llm.service failed (oom-kill)"
    await world.arbiter.release(grant.lease.id)
    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions())).loaded
    assert world.units.calls.count(("start", "llm.service")) == 2


async def test_no_manual_or_idle_eviction_during_an_external_start() -> None:
    world = FakeWorld([by_unit("llm", 9000), routed("a", 5000, idle_timeout_sec=10.0), routed("b", 5000)])
    world.routes.place("a", 5000)
    world.routes.place("b", 5000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    world.units.become("llm.service", UnitActivity.ACTIVATING)
    await world.clock.sleep(60)
    assert [residency(world, name) for name in ("llm", "a")] == ["loading", "resident"]

    with pytest.raises(TimedOut, match="llm is loading on device 0"):
        await world.arbiter.evict("b", False, 5.0)
    assert (await world.arbiter.evict("b", True, 5.0)).changed
    world.units.become("llm.service", UnitActivity.ACTIVE)
    await world.clock.sleep(10)

    assert residency(world, "a") == "unloaded"
    housekeeping.cancel()


async def test_external_start_reserves_memory_and_blocks_the_device() -> None:
    world = FakeWorld([by_unit("llm", 14000), routed("image", 12000)])
    await world.start()
    await world.arbiter.watch_units()

    world.units.become("llm.service", UnitActivity.ACTIVATING)
    assert world.arbiter.status().devices[0].reserved_mib == 14000
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=100)))
    await world.clock.sleep(5)
    assert world.routes.called("load") == []
    world.vram.hold(77, 14000, consumer="llm", unit="llm.service")
    world.units.units["llm.service"].stopped = lambda: world.vram.release(77)
    world.units.become("llm.service", UnitActivity.ACTIVE)

    assert (await acquiring).evicted == ("llm",)
    assert world.routes.consumer("image").ooms == 0


async def test_endless_external_start_does_not_block_the_device_forever() -> None:
    world = FakeWorld([by_unit("stuck", 14000, load_timeout_sec=60.0), routed("image", 12000)])
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1)
    world.units.become("stuck.service", UnitActivity.ACTIVATING)

    grant = await world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=200))

    assert grant.loaded
    assert 60 <= grant.waited_usec / 1e6 <= 100, "its load timeout plus the time in which memory may still appear"
    housekeeping.cancel()


async def test_resident_consumer_that_does_not_answer_stays_resident() -> None:
    spec = by_unit("llm", 8000, url="http://127.0.0.1:1", health=HealthRoute("/health", timeout_sec=2.0))
    world = FakeWorld([spec])
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.place("llm", 8000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    world.routes.consumer("llm").hangs = True
    await world.clock.sleep(20)

    assert residency(world, "llm") == "resident"
    housekeeping.cancel()


# -- degraded ----------------------------------------------------------------------------------------------------------


async def test_eviction_without_readings_is_reported_as_unverified() -> None:
    world = FakeWorld([routed("a", 14000), routed("b", 14000, devices=("0",))])
    world.settings = replace(world.settings, gpu=replace(world.settings.gpu, total_mib=24564))
    world.routes.place("a", 14000)
    await world.arbiter.reload()
    world.vram.fail("driver-mismatch: Driver/library version mismatch")
    await world.start()

    grant = await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=60))

    assert grant.evicted == ("a",)
    (event,) = [event for event in world.events if isinstance(event, EvictionOccurred)]
    assert (event.report.verified, event.report.freed_mib) == (False, 0)
    assert world.arbiter.summary().degraded.startswith("driver-mismatch")


async def test_hanging_driver_degrades_but_requests_are_answered() -> None:
    world = FakeWorld([routed("a", 9000), routed("b", 9000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    world.vram.hang()
    await world.clock.sleep(10)

    assert world.arbiter.summary().degraded.startswith("nvml-hangs")
    assert (await world.arbiter.acquire(client(2), "a", AcquireOptions())).lease, "a resident consumer needs no reading"
    with pytest.raises(DeviceUnavailable, match="nvml-hangs"):
        await world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=30))
    world.vram.resume()
    await world.clock.sleep(5)
    assert world.arbiter.summary().degraded == ""
    assert (await world.arbiter.acquire(client(3), "b", AcquireOptions(timeout_sec=30))).loaded
    housekeeping.cancel()


async def test_new_foreign_memory_is_considered_by_the_next_decision() -> None:
    world = FakeWorld([routed("a", 9000)])
    await world.start()
    hold_foreign_memory(world, 20000)

    report = await world.arbiter.plan(client(), "a", AcquireOptions())

    assert report.verdict is Verdict.REFUSE
    assert "session-1.scope" in report.message
