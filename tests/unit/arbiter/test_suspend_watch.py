"""Suspend of the host in virtual time: held requests and refreshed state."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.arbiter.suspend import (
    CLOCK_CHECK_SEC,
    MAX_HOLD_SEC,
    RECHECK_SEC,
    WAITING_FOR_RESUME,
)
from gpumand.domain.consumer import UnitActivity
from gpumand.domain.errors import Busy, NoSuchLease, TimedOut
from gpumand.domain.events import LeaseEnded
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import (
    by_unit,
    drop_model,
    hold_foreign_memory,
    kill_consumer,
    lazy,
    reports,
    residency,
    routed,
)
from tests.unit.arbiter.suspend_setup import LONG, NIGHT_SEC, NOW, SuspendScenario


async def test_requests_wait_from_the_announcement_until_the_resume() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        await world.clock.advance(3)
        assert scenario.waiting_for == [WAITING_FOR_RESUME]
        assert world.routes.called("load") == []
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(30)
        assert (await asked).loaded
        assert world.vram.renewals >= 1


async def test_resident_consumer_is_not_granted_before_the_resume() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    scenario.world.routes.place("a", 3000)
    async with scenario.running() as world:
        scenario.prepare()
        with pytest.raises(Busy, match=WAITING_FOR_RESUME):
            await world.arbiter.acquire(client(), "a", NOW)
        with pytest.raises(TimedOut, match=WAITING_FOR_RESUME):
            await world.arbiter.acquire(client(), "a", AcquireOptions(timeout_sec=2))
        report = await world.arbiter.plan(client(), "a", LONG)
        assert (report.verdict, report.message) == ("wait", WAITING_FOR_RESUME)
        assert world.arbiter.status().leases == ()


async def test_no_manual_or_idle_eviction_before_a_suspend() -> None:
    scenario = SuspendScenario(routed("a", 3000, idle_timeout_sec=5.0), routed("b", 3000))
    for name in ("a", "b"):
        scenario.world.routes.place(name, 3000)
    async with scenario.running() as world:
        scenario.prepare()
        manual = asyncio.create_task(world.arbiter.evict("b", False, 60))
        await world.clock.advance(20)
        assert world.routes.called("unload") == []
        with pytest.raises(TimedOut, match=WAITING_FOR_RESUME):
            await world.arbiter.evict("a", False, 1)
        scenario.wake()
        await world.clock.advance(20)
        assert (await manual).changed
        assert {report.consumer for report in reports(world)} == {"a", "b"}


async def test_plan_stops_when_a_suspend_is_announced() -> None:
    scenario = SuspendScenario(routed("a", 10000), routed("b", 10000), routed("big", 22000))
    for name in ("a", "b"):
        scenario.world.routes.place(name, 10000)
        scenario.world.routes.consumer(name).unload_sec = 2.0
    async with scenario.running() as world:
        asked = scenario.ask("big")
        await world.clock.advance_until(lambda: world.routes.called("unload") != [])
        scenario.prepare()
        await world.clock.advance(10)
        assert len(reports(world)) == 1, "the running eviction completes"
        assert world.routes.called("load") == []
        assert scenario.waiting_for == [WAITING_FOR_RESUME]
        scenario.wake()
        await world.clock.advance(60)
        assert (await asked).evicted == ("a", "b") or (await asked).evicted == ("b", "a")


async def test_running_load_continues_and_is_granted_after_the_resume() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    scenario.world.routes.consumer("a").load_sec = 5.0
    async with scenario.running() as world:
        asked = scenario.ask("a")
        await world.clock.advance(1)
        scenario.prepare()
        await world.clock.advance(10)
        assert residency(world, "a") == "resident"
        assert not asked.done()
        scenario.wake()
        await world.clock.advance(10)
        assert (await asked).loaded


async def test_consumer_that_died_during_the_suspend_is_noticed_before_the_first_grant() -> None:
    scenario = SuspendScenario(routed("a", 14000), routed("b", 14000))
    scenario.world.routes.place("a", 14000)
    async with scenario.running() as world:
        assert residency(world, "a") == "resident"
        scenario.prepare()
        asked = scenario.ask("b")
        scenario.suspend()
        kill_consumer(world, "a")
        hold_foreign_memory(world, 2000)
        scenario.wake()
        await world.clock.advance(30)
        assert (await asked).evicted == (), "nothing had to be evicted, since it had ended"
        assert residency(world, "a") == "unloaded"


async def test_unit_stopped_during_the_suspend_is_noticed_without_a_signal() -> None:
    scenario = SuspendScenario(by_unit("a", 3000))
    scenario.world.units.units["a.service"].activity = UnitActivity.ACTIVE
    async with scenario.running() as world:
        assert residency(world, "a") == "resident"
        scenario.prepare()
        scenario.suspend()
        world.units.units["a.service"].activity = UnitActivity.INACTIVE
        scenario.wake()
        await world.clock.advance(1)
        assert residency(world, "a") == "unloaded"


async def test_consumer_that_does_not_answer_after_the_resume_is_unknown() -> None:
    scenario = SuspendScenario(routed("hung", 3000), routed("b", 3000))
    scenario.world.routes.place("hung", 3000)
    scenario.world.vram.attributed = False
    async with scenario.running() as world:
        assert residency(world, "hung") == "resident"
        scenario.prepare()
        asked = scenario.ask("b")
        scenario.suspend()
        world.routes.consumer("hung").hangs = True
        world.vram.release_consumer("hung")  # the driver lists no process, which proves nothing
        scenario.wake()
        await world.clock.advance(4)
        assert residency(world, "hung") == "unknown"
        assert (await asked).loaded


async def test_leased_consumer_keeps_its_residency_until_an_observation_contradicts_it() -> None:
    scenario = SuspendScenario(lazy("a", 3000))
    async with scenario.running() as world:
        grant = await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=2 * NIGHT_SEC))
        scenario.prepare()
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(10)
        assert residency(world, "a") == "resident"
        assert world.arbiter.lease(grant.lease.id)


async def test_leases_that_expired_during_the_suspend_end_at_the_resume() -> None:
    scenario = SuspendScenario(routed("a", 3000), routed("b", 3000))
    async with scenario.running() as world:
        short = (await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=600))).lease
        long = (await world.arbiter.acquire(client(), "b", AcquireOptions(ttl_sec=NIGHT_SEC + 600))).lease
        bound = (await world.arbiter.acquire(client(), "b", AcquireOptions(lifetime=LeaseLifetime.CONNECTION))).lease
        scenario.prepare()
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(0.5)
        assert [(event.lease.id, event.reason) for event in world.events if isinstance(event, LeaseEnded)] == [
            (short.id, LeaseEnd.EXPIRED)
        ]
        assert {lease.id for lease in world.arbiter.status().leases} == {long.id, bound.id}
        with pytest.raises(NoSuchLease):
            await world.arbiter.renew(short.id, None)


async def test_suspended_time_does_not_count_as_waiting_time() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a", AcquireOptions(timeout_sec=20))
        await world.clock.advance(1)
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(15)
        assert (await asked).loaded


async def test_suspend_without_logind_is_detected_by_the_clocks() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    scenario.world.routes.place("a", 3000)
    async with scenario.running() as world:
        scenario.suspend()
        drop_model(world, "a")
        await world.clock.advance(CLOCK_CHECK_SEC + 0.5)
        assert world.vram.renewals == 1
        assert residency(world, "a") == "unloaded"
        assert (await world.arbiter.acquire(client(), "a", LONG)).loaded


async def test_changed_wall_clock_is_not_a_suspend() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        world.clock.step_realtime(NIGHT_SEC)
        await world.clock.advance(60)
        assert world.vram.renewals == 0


async def test_cancelled_suspend_ends_the_hold() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        await world.clock.advance(1)
        scenario.wake()
        await world.clock.advance(10)
        assert (await asked).loaded


async def test_hold_ends_when_logind_dies_before_the_resume() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        scenario.is_preparing = False  # the signal never arrives
        await world.clock.advance(RECHECK_SEC - 1)
        assert scenario.waiting_for == [WAITING_FOR_RESUME]
        await world.clock.advance(10)
        assert scenario.asked == 1
        assert (await asked).loaded


async def test_long_preparation_of_a_suspend_is_waited_for_within_a_limit() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        await world.clock.advance(MAX_HOLD_SEC - 60)
        assert scenario.waiting_for == [WAITING_FOR_RESUME]
        assert scenario.asked > 10
        await world.clock.advance(120)
        assert (await asked).loaded


async def test_nothing_is_granted_between_suspend_and_hibernation() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        await world.clock.advance(1)
        scenario.suspend()  # it resumes in order to hibernate, and logind has not reported a resume
        await world.clock.advance(10)
        assert scenario.waiting_for == [WAITING_FOR_RESUME]
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(10)
        assert (await asked).loaded


async def test_second_suspend_right_after_the_resume_keeps_the_hold() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    scenario.world.vram.read_sec = 1.0
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(0.5)
        scenario.prepare()
        await world.clock.advance(10)
        assert scenario.waiting_for == [WAITING_FOR_RESUME]
        scenario.suspend()
        scenario.wake()
        await world.clock.advance(30)
        assert (await asked).loaded


async def test_requests_wait_for_a_driver_that_hangs_after_the_resume() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.prepare()
        asked = scenario.ask("a")
        scenario.suspend()
        world.vram.hang(timeout_sec=5.0)
        scenario.wake()
        await world.clock.advance(60)
        assert "nvml-hangs" in world.arbiter.status().degraded
        assert not asked.done(), "nothing is loaded on a device that has not been read"
        world.vram.resume()
        assert (await asked).loaded


async def test_suspend_announced_while_logind_is_asked_is_not_missed() -> None:
    scenario = SuspendScenario(routed("a", 3000))

    async def announce() -> None:
        scenario.asked += 1
        scenario.watch.prepare_for_sleep(True)

    async def answer_of_before() -> bool:
        await announce()
        return False

    scenario.watch._still_preparing = answer_of_before  # logind's answer from before the next announcement
    async with scenario.running() as world:
        scenario.prepare()
        await world.clock.advance(RECHECK_SEC + CLOCK_CHECK_SEC)

        assert scenario.asked == 1
        assert world.arbiter.gate.held == WAITING_FOR_RESUME
