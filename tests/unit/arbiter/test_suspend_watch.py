"""The host sleeps and shuts down, in virtual time: what waits, what is looked at anew, and what ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gpumand.arbiter.suspend import ASK_SEC, LONGEST_HOLD_SEC, LOOK_SEC, SHUTTING_DOWN, WAKING, SuspendWatch
from gpumand.domain.consumer import ConsumerSpec, SchedulerSettings, UnitActivity
from gpumand.domain.errors import Busy, NoSuchLease, ShuttingDown, TimedOut
from gpumand.domain.events import LeaseEnded
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, die, drop_model, lazy, occupy, reports, residency, routed

LONG = AcquireOptions(timeout_sec=3600)
NOW = AcquireOptions(timeout_sec=0)
NIGHT_SEC = 8 * 3600.0


class Night:
    """A world with a watch on its sleep, and what logind would say if asked."""

    def __init__(self, *specs: ConsumerSpec, store: MemoryStore | None = None) -> None:
        self.world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0), store=store)
        self.asked = 0
        self.is_preparing = False
        self.watch = SuspendWatch(self.world.arbiter, self.world.housekeeping, self._answer)

    async def _answer(self) -> bool:
        self.asked += 1
        return self.is_preparing

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[FakeWorld]:
        await self.world.start()
        loops = [asyncio.create_task(self.watch.run()), asyncio.create_task(self.world.housekeeping.run())]
        await self.world.clock.advance(0.1)
        yield self.world
        for loop in loops:
            loop.cancel()

    def prepare(self) -> None:
        self.is_preparing = True
        self.watch.prepare_for_sleep(True)

    def suspend(self, seconds: float = NIGHT_SEC) -> None:
        self.world.clock.suspend(seconds)

    def wake(self) -> None:
        self.is_preparing = False
        self.watch.prepare_for_sleep(False)

    def ask(self, consumer: str, options: AcquireOptions = LONG) -> asyncio.Task[Grant]:
        return asyncio.create_task(self.world.arbiter.acquire(client(), consumer, options))

    @property
    def waiting_for(self) -> list[str]:
        return [entry.waiting_for for entry in self.world.arbiter.status().queue]


async def test_requests_wait_from_the_announcement_to_the_awakening_and_are_told_why() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        await world.clock.advance(3)
        assert night.waiting_for == [WAKING]
        assert world.routes.called("load") == []
        night.suspend()
        night.wake()
        await world.clock.advance(30)
        assert (await asked).loaded
        assert world.vram.renewals >= 1


async def test_a_resident_is_not_lent_before_the_host_is_awake() -> None:
    night = Night(routed("a", 3000))
    night.world.routes.place("a", 3000)
    async with night.running() as world:
        night.prepare()
        with pytest.raises(Busy, match=WAKING):
            await world.arbiter.acquire(client(), "a", NOW)
        with pytest.raises(TimedOut, match=WAKING):
            await world.arbiter.acquire(client(), "a", AcquireOptions(timeout_sec=2))
        report = await world.arbiter.plan(client(), "a", LONG)
        assert (report.verdict, report.message) == ("wait", WAKING)
        assert world.arbiter.status().leases == ()


async def test_nobody_is_evicted_by_hand_or_for_idleness_while_the_host_goes_to_sleep() -> None:
    night = Night(routed("a", 3000, idle_timeout_sec=5.0), routed("b", 3000))
    for name in ("a", "b"):
        night.world.routes.place(name, 3000)
    async with night.running() as world:
        night.prepare()
        by_hand = asyncio.create_task(world.arbiter.evict("b", False, 60))
        await world.clock.advance(20)
        assert world.routes.called("unload") == []
        with pytest.raises(TimedOut, match=WAKING):
            await world.arbiter.evict("a", False, 1)
        night.wake()
        await world.clock.advance(20)
        assert (await by_hand).changed
        assert {report.consumer for report in reports(world)} == {"a", "b"}


async def test_no_further_victim_and_no_load_once_the_host_goes_to_sleep() -> None:
    night = Night(routed("a", 10000), routed("b", 10000), routed("big", 22000))
    for name in ("a", "b"):
        night.world.routes.place(name, 10000)
        night.world.routes.consumer(name).unload_sec = 2.0
    async with night.running() as world:
        asked = night.ask("big")
        await world.clock.advance_until(lambda: world.routes.called("unload") != [])
        night.prepare()
        await world.clock.advance(10)
        assert len(reports(world)) == 1, "the eviction under way ends as it would have"
        assert world.routes.called("load") == []
        assert night.waiting_for == [WAKING]
        night.wake()
        await world.clock.advance(60)
        assert (await asked).evicted == ("a", "b") or (await asked).evicted == ("b", "a")


async def test_a_load_under_way_goes_on_and_is_granted_after_waking_up() -> None:
    night = Night(routed("a", 3000))
    night.world.routes.consumer("a").load_sec = 5.0
    async with night.running() as world:
        asked = night.ask("a")
        await world.clock.advance(1)
        night.prepare()
        await world.clock.advance(10)
        assert residency(world, "a") == "resident"
        assert not asked.done()
        night.wake()
        await world.clock.advance(10)
        assert (await asked).loaded


async def test_what_died_in_the_night_is_known_before_the_first_grant() -> None:
    night = Night(routed("a", 14000), routed("b", 14000))
    night.world.routes.place("a", 14000)
    async with night.running() as world:
        assert residency(world, "a") == "resident"
        night.prepare()
        asked = night.ask("b")
        night.suspend()
        die(world, "a")
        occupy(world, 2000)
        night.wake()
        await world.clock.advance(30)
        assert (await asked).evicted == (), "nothing had to be evicted: it is gone"
        assert residency(world, "a") == "unloaded"


async def test_a_unit_stopped_in_the_night_is_known_though_no_signal_came() -> None:
    night = Night(by_unit("a", 3000))
    night.world.units.units["a.service"].activity = UnitActivity.ACTIVE
    async with night.running() as world:
        assert residency(world, "a") == "resident"
        night.prepare()
        night.suspend()
        world.units.units["a.service"].activity = UnitActivity.INACTIVE
        night.wake()
        await world.clock.advance(1)
        assert residency(world, "a") == "unloaded"


async def test_a_consumer_that_does_not_answer_in_the_morning_is_unknown_and_keeps_nobody_waiting() -> None:
    night = Night(routed("hung", 3000), routed("b", 3000))
    night.world.routes.place("hung", 3000)
    night.world.vram.attributed = False
    async with night.running() as world:
        assert residency(world, "hung") == "resident"
        night.prepare()
        asked = night.ask("b")
        night.suspend()
        world.routes.consumer("hung").hangs = True
        world.vram.release_consumer("hung")  # the driver lists nobody, and does not vouch for that
        night.wake()
        await world.clock.advance(4)
        assert residency(world, "hung") == "unknown"
        assert (await asked).loaded


async def test_a_lent_consumer_stays_what_it_is_until_a_fact_denies_it() -> None:
    night = Night(lazy("a", 3000))
    async with night.running() as world:
        grant = await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=2 * NIGHT_SEC))
        night.prepare()
        night.suspend()
        night.wake()
        await world.clock.advance(10)
        assert residency(world, "a") == "resident"
        assert world.arbiter.lease(grant.lease.id)


async def test_a_lease_that_ran_out_in_the_night_is_over_in_the_morning_and_one_that_did_not_stands() -> None:
    night = Night(routed("a", 3000), routed("b", 3000))
    async with night.running() as world:
        short = (await world.arbiter.acquire(client(), "a", AcquireOptions(ttl_sec=600))).lease
        long = (await world.arbiter.acquire(client(), "b", AcquireOptions(ttl_sec=NIGHT_SEC + 600))).lease
        bound = (await world.arbiter.acquire(client(), "b", AcquireOptions(lifetime=LeaseLifetime.CONNECTION))).lease
        night.prepare()
        night.suspend()
        night.wake()
        await world.clock.advance(0.5)
        assert [(event.lease.id, event.reason) for event in world.events if isinstance(event, LeaseEnded)] == [
            (short.id, LeaseEnd.EXPIRED)
        ]
        assert {lease.id for lease in world.arbiter.status().leases} == {long.id, bound.id}
        with pytest.raises(NoSuchLease):
            await world.arbiter.renew(short.id, None)


async def test_time_asleep_is_no_waiting_time() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a", AcquireOptions(timeout_sec=20))
        await world.clock.advance(1)
        night.suspend()
        night.wake()
        await world.clock.advance(15)
        assert (await asked).loaded


async def test_a_suspend_past_logind_shows_in_the_clocks() -> None:
    night = Night(routed("a", 3000))
    night.world.routes.place("a", 3000)
    async with night.running() as world:
        night.suspend()
        drop_model(world, "a")
        await world.clock.advance(LOOK_SEC + 0.5)
        assert world.vram.renewals == 1
        assert residency(world, "a") == "unloaded"
        assert (await world.arbiter.acquire(client(), "a", LONG)).loaded


async def test_clocks_set_by_hand_are_no_suspend() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        world.clock.step_realtime(NIGHT_SEC)
        await world.clock.advance(60)
        assert world.vram.renewals == 0


async def test_a_suspend_that_is_called_off_is_looked_after_and_over() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        await world.clock.advance(1)
        night.wake()
        await world.clock.advance(10)
        assert (await asked).loaded


async def test_a_logind_that_dies_before_the_morning_keeps_nobody_for_ever() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        night.is_preparing = False  # and the signal never comes
        await world.clock.advance(ASK_SEC - 1)
        assert night.waiting_for == [WAKING]
        await world.clock.advance(10)
        assert night.asked == 1
        assert (await asked).loaded


async def test_a_sleep_that_takes_long_to_begin_is_waited_for_but_not_for_ever() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        await world.clock.advance(LONGEST_HOLD_SEC - 60)
        assert night.waiting_for == [WAKING]
        assert night.asked > 10
        await world.clock.advance(120)
        assert (await asked).loaded


async def test_between_suspend_and_hibernation_nothing_is_granted() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        await world.clock.advance(1)
        night.suspend()  # it wakes up to hibernate, and logind has not said that it is awake
        await world.clock.advance(10)
        assert night.waiting_for == [WAKING]
        night.suspend()
        night.wake()
        await world.clock.advance(10)
        assert (await asked).loaded


async def test_going_to_sleep_again_right_after_waking_up_holds_on() -> None:
    night = Night(routed("a", 3000))
    night.world.vram.read_sec = 1.0
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        night.suspend()
        night.wake()
        await world.clock.advance(0.5)
        night.prepare()
        await world.clock.advance(10)
        assert night.waiting_for == [WAKING]
        night.suspend()
        night.wake()
        await world.clock.advance(30)
        assert (await asked).loaded


async def test_a_driver_that_hangs_in_the_morning_does_not_hold_requests_for_ever() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.prepare()
        asked = night.ask("a")
        night.suspend()
        world.vram.hang(timeout_sec=5.0)
        night.wake()
        await world.clock.advance(60)
        assert (await asked).loaded
        assert "nvml-hangs" in world.arbiter.status().degraded


async def test_a_host_that_shuts_down_refuses_those_who_wait_and_those_who_come() -> None:
    night = Night(routed("a", 20000), routed("b", 20000))
    async with night.running() as world:
        lease = (await world.arbiter.acquire(client(), "a", LONG)).lease
        waiting = night.ask("b")
        await world.clock.advance(1)
        night.watch.prepare_for_shutdown(True)
        for attempt in (waiting, world.arbiter.acquire(client(), "a", NOW), world.arbiter.load("b", "", 5)):
            with pytest.raises(ShuttingDown, match=SHUTTING_DOWN):
                await attempt
        assert world.arbiter.lease(lease.id), "it ends with the daemon, not before"
        await world.arbiter.release(lease.id)


async def test_an_eviction_by_hand_that_waits_is_refused_by_a_shutdown() -> None:
    night = Night(routed("a", 3000))
    night.world.routes.consumer("a").load_sec = 30.0
    async with night.running() as world:
        loading = night.ask("a")
        await world.clock.advance(1)
        evicting = asyncio.create_task(world.arbiter.evict("a", True, 60))
        await world.clock.advance(1)
        night.watch.prepare_for_shutdown(True)
        for attempt in (loading, evicting):
            with pytest.raises(ShuttingDown):
                await attempt


async def test_a_shutdown_that_is_called_off_lets_grants_go_on() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.watch.prepare_for_shutdown(True)
        night.watch.prepare_for_shutdown(False)
        assert (await world.arbiter.acquire(client(), "a", LONG)).loaded


async def test_a_shutdown_called_off_after_our_own_stop_opens_nothing() -> None:
    night = Night(routed("a", 3000))
    async with night.running() as world:
        night.watch.prepare_for_shutdown(True)
        await world.arbiter.stop("gpumand is stopping")
        night.watch.prepare_for_shutdown(False)
        with pytest.raises(ShuttingDown, match="gpumand is stopping"):
            await world.arbiter.acquire(client(), "a", LONG)


@pytest.mark.parametrize("leases_end", [True, False])
async def test_leases_end_with_the_host_and_outlive_a_restart(leases_end: bool) -> None:
    store = MemoryStore()
    night = Night(routed("a", 3000), store=store)
    async with night.running() as world:
        lease = (await world.arbiter.acquire(client(), "a", LONG)).lease
        await world.arbiter.stop("gpumand is stopping", leases_end=leases_end)
        ended = [(event.lease.id, event.reason) for event in world.events if isinstance(event, LeaseEnded)]
        assert ended == ([(lease.id, LeaseEnd.SHUTDOWN)] if leases_end else [])
    assert [kept.id for kept in await store.read_leases()] == ([] if leases_end else [lease.id])


async def test_a_sleep_announced_while_logind_is_asked_about_the_one_before_is_waited_for() -> None:
    night = Night(routed("a", 3000))

    async def announce() -> None:
        night.asked += 1
        night.watch.prepare_for_sleep(True)

    async def answer_of_before() -> bool:
        await announce()
        return False

    night.watch._still_preparing = answer_of_before  # what logind said before it announced the next
    async with night.running() as world:
        night.prepare()
        await world.clock.advance(ASK_SEC + LOOK_SEC)

        assert night.asked == 1
        assert world.arbiter.gate.held == WAKING
