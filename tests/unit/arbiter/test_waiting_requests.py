"""What changes while something is awaited, and who leaves in the middle of it: nothing is half done, nothing undone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain.consumer import (
    UNKNOWN_MIB,
    ConsumerSpec,
    EvictionMethod,
    Health,
    Settings,
    UnitActivity,
    UnitState,
    Work,
)
from gpumand.domain.device import Reading
from gpumand.domain.errors import ConsumerBackingOff, LoadFailed, ShuttingDown
from gpumand.domain.footprint import Footprint
from gpumand.domain.identity import identity
from gpumand.domain.learning import Learned
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.ports import UnitFailed
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, reports, reserved, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


async def at_work(*specs: ConsumerSpec, read_sec: float = READ_SEC, total_mib: tuple[int, ...] = (24564,)) -> FakeWorld:
    world = FakeWorld(specs, total_mib=total_mib)
    world.vram.read_sec = read_sec
    await world.start()
    return world


def standing(world: FakeWorld) -> set[str]:
    return set(world.arbiter.arbiter_state.ledger.leases)


# -- an eviction by hand whose client leaves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [routed("a", 5000), by_unit("a", 5000), routed("a", 5000, health=None, unit="a.service", evict=BOTH)],
    ids=["by its route", "by its unit", "by both, and nobody says whether it is loaded"],
)
async def test_an_eviction_is_done_to_its_end_and_told_of_though_its_client_leaves(spec: ConsumerSpec) -> None:
    world = FakeWorld([spec])
    world.vram.read_sec = READ_SEC
    if spec.unit:
        world.units.become(spec.unit, UnitActivity.ACTIVE)
        world.units.units[spec.unit].stop_delay_sec = 3.0
        world.units.units[spec.unit].stopped = lambda: world.routes.die("a")
    world.routes.place("a", 5000).unload_sec = 3.0
    await world.start()
    evicting = asyncio.create_task(world.arbiter.evict("a", False, 20.0))
    await world.clock.sleep(1.0)
    assert residency(world, "a") == "unloading"

    evicting.cancel()

    await world.clock.sleep(5.0)
    assert residency(world, "a") == "unloaded"
    assert [report.freed_mib for report in reports(world)] == [5000]
    assert world.arbiter.status().stats.evictions == 1
    assert world.arbiter.arbiter_state.ledger.jobs == {}


async def test_an_eviction_whose_client_leaves_before_it_has_begun_takes_nothing() -> None:
    world = await at_work(routed("a", 5000))
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions())).lease
    evicting = asyncio.create_task(world.arbiter.evict("a", True, 20.0))
    await world.clock.settle()  # the figures are being read

    evicting.cancel()

    await world.clock.sleep(5.0)
    assert (world.routes.called("unload"), standing(world)) == ([], {lease.id})
    assert world.arbiter.arbiter_state.ledger.jobs == {}


async def test_who_waits_for_an_eviction_is_told_that_the_daemon_stops() -> None:
    world = await at_work(routed("a", 5000))
    world.routes.place("a", 5000).unload_sec = 30.0
    await world.arbiter.arbiter_state.sample()
    evicting = asyncio.create_task(world.arbiter.evict("a", False, 20.0))
    await world.clock.advance_until(lambda: "a" in world.routes.called("unload"))

    await world.arbiter.stop("it is time")

    with pytest.raises(ShuttingDown):
        await evicting


async def test_a_step_between_asking_for_the_next_one_and_awaiting_it_is_not_missed() -> None:
    world = await at_work(routed("a", 5000))
    moved = asyncio.ensure_future(world.arbiter.scheduler.moved())

    world.arbiter.scheduler.step()

    await world.clock.settle()
    assert moved.done()


# -- units that change while figures are read --------------------------------------------------------------------------


async def test_a_unit_that_dies_while_its_load_is_looked_at_has_failed_to_load() -> None:
    world = await at_work(by_unit("a", 5000))
    housekeeping = asyncio.create_task(world.housekeeping.run())
    unit = world.units.units["a.service"]
    unit.lines = ("no such model",)
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "a", AcquireOptions()))
    await world.clock.advance_until(lambda: unit.activity is UnitActivity.ACTIVE)

    await world.clock.advance(READ_SEC / 2)
    world.units.become("a.service", UnitActivity.FAILED, "exit-code")

    with pytest.raises(LoadFailed, match=r"a\.service ended while a was loading \(exit-code\); last lines: no such"):
        await acquiring
    assert (residency(world, "a"), standing(world)) == ("failed", set())
    with pytest.raises(ConsumerBackingOff):
        await world.arbiter.acquire(client(), "a", AcquireOptions())
    housekeeping.cancel()


async def test_a_systemd_that_cannot_be_asked_at_the_end_of_a_load_does_not_undo_it() -> None:
    world = await at_work(by_unit("a", 5000))
    world.units.units["a.service"].started = lambda: setattr(world.units, "unavailable", True)

    assert (await world.arbiter.acquire(client(), "a", AcquireOptions())).loaded


async def test_a_unit_that_comes_back_while_the_figures_are_watched_is_reckoned_with() -> None:
    world = FakeWorld([by_unit("a", 15000), by_unit("b", 15000)])
    world.vram.read_sec = 0.05
    unit = world.units.units["a.service"]
    unit.activity, unit.invocation = UnitActivity.ACTIVE, 1
    world.vram.hold(7, 15000, consumer="a")
    world.units.units["b.service"].started = lambda: world.vram.hold(8, 15000, consumer="b")
    back = list[asyncio.Task[None]]()

    async def come_back() -> None:  # as with Restart=always and a RestartSec= of nearly nothing
        await world.clock.sleep(0.02)
        unit.stopped = lambda: world.vram.release(7)
        world.units.become("a.service", UnitActivity.ACTIVE)
        await world.clock.sleep(3.0)
        world.vram.hold(7, 15000, consumer="a")

    def stopped() -> None:
        world.vram.release(7)
        back.append(asyncio.create_task(come_back()))

    unit.stopped = stopped
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(0.5)
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(2.0)

    assert residency(world, "a") == "resident"
    assert reserved(world) == {"a": 15000}, "its memory has yet to come"
    assert ("start", "b.service") not in world.units.calls

    assert (await acquiring).evicted == ("a", "a")
    assert world.units.calls.count(("stop", "a.service")) == 2
    housekeeping.cancel()


# -- answers that come late --------------------------------------------------------------------------------------------


async def test_an_answer_that_was_asked_for_earlier_does_not_replace_a_later_one() -> None:
    world = await at_work(routed("a", 5000))
    now = world.clock.monotonic()

    world.arbiter.facts.note_health("a", Health(reachable=True, loaded=True), now + 2.0)
    world.arbiter.facts.note_health("a", Health(reachable=True, loaded=False), now + 1.0)
    assert residency(world, "a") == "resident"

    world.arbiter.busyness.note("a", Work(3), now + 2.0)
    world.arbiter.busyness.note("a", Work(0), now + 1.0)
    assert world.arbiter.arbiter_state.state("a").jobs == 3


# -- reloads -----------------------------------------------------------------------------------------------------------


class SlowFiles(FakeWorld):
    """A world whose configuration takes time to read; of each reading so long."""

    read_secs: list[float]

    async def _load_settings(self) -> Settings:
        settings = self.settings
        await self.clock.sleep(self.read_secs.pop(0))
        return settings


async def test_of_two_reloads_the_later_one_is_in_force() -> None:
    world = SlowFiles([routed("a", 5000)])
    world.read_secs = [2.0, 1.0]
    await world.start()
    first = asyncio.create_task(world.arbiter.reload())
    await world.clock.settle()
    world.settings = replace(world.settings, consumers={})
    second = asyncio.create_task(world.arbiter.reload())

    await asyncio.gather(first, second)

    assert world.arbiter.status().consumers == ()


async def test_a_reload_whose_client_leaves_is_in_force_all_the_same() -> None:
    world = SlowFiles([routed("a", 5000)])
    world.read_secs = [2.0]
    await world.start()
    world.settings = replace(world.settings, consumers={})
    reloading = asyncio.create_task(world.arbiter.reload())
    await world.clock.settle()

    reloading.cancel()

    await world.clock.sleep(3.0)
    assert world.arbiter.status().consumers == ()


# -- what is written down ----------------------------------------------------------------------------------------------


async def test_a_pin_outlives_a_last_use_that_is_written_at_the_same_time() -> None:
    world = await at_work(routed("a", 5000))
    await world.arbiter.release((await world.arbiter.acquire(client(), "a", AcquireOptions())).lease.id)
    world.store.stall()
    pinning = asyncio.create_task(world.arbiter.pin("a", True))
    await world.clock.settle()
    keeping = asyncio.create_task(world.arbiter.leases.keep_uses())
    await world.clock.settle()
    world.store.resume()

    await asyncio.gather(pinning, keeping)

    pinned, worked_usec = world.store.consumers["a"]
    assert pinned is True
    assert worked_usec == world.arbiter.arbiter_state.state("a").worked_usec > 0


async def test_last_uses_that_an_interruption_left_unwritten_are_written_at_the_end() -> None:
    world = await at_work(routed("a", 3000), routed("b", 3000))
    for name in ("a", "b"):
        await world.arbiter.release((await world.arbiter.acquire(client(), name, AcquireOptions())).lease.id)
    world.store.stall()
    keeping = asyncio.create_task(world.arbiter.leases.keep_uses())
    await world.clock.settle()

    keeping.cancel()
    await world.clock.settle()
    world.store.resume()
    await world.arbiter.stop("it is time")

    assert set(world.store.consumers) == {"a", "b"}


async def test_a_lease_whose_device_is_another_index_meanwhile_keeps_that_when_it_is_renewed() -> None:
    world = await at_work(routed("a", 5000, devices=("1",)), total_mib=(24564, 24564))
    world.routes.consumer("a").device = 1
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions())).lease
    world.store.stall()
    renewing = asyncio.create_task(world.arbiter.renew(lease.id, 5000))
    await world.clock.settle()
    await world.clock.advance(1.0)
    card = replace(world.arbiter.arbiter_state.device(1), index=0, taken_at=world.clock.monotonic())
    world.arbiter.arbiter_state.take(Reading((card,)))  # the one before it was pulled
    world.store.resume()

    assert (await renewing).device == "0"
    assert world.arbiter.lease(lease.id).device == "0"


# -- leases that nobody gets -------------------------------------------------------------------------------------------

RUN = client(3, unit="job.service", invocation_id=f"{1:032x}")
FOR_ITS_UNIT = AcquireOptions(LeaseLifetime.UNIT, token="t")


@pytest.fixture
async def world() -> FakeWorld:
    """A service that is loaded, and a job that asks for it; systemd takes a second for each answer about the job."""
    world = await at_work(routed("a", 5000), routed("b", 5000))
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    await world.arbiter.load("a", "", 60.0)
    ask = world.units.state

    async def slowly(unit: str) -> UnitState:
        await world.clock.sleep(1.0 if unit == "job.service" else 0.0)
        return await ask(unit)

    world.units.state = slowly  # type: ignore[method-assign]
    return world


async def test_a_lease_that_a_second_call_was_given_stays_though_the_first_leaves_before_its_answer(
    world: FakeWorld,
) -> None:
    first = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    await world.clock.advance(0.5)
    second = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    world.arbiter.leases.shared.update(standing(world))  # as if systemd had answered the second one sooner

    first.cancel()

    assert {(await second).lease.id} == standing(world)


async def test_a_second_call_is_served_though_the_first_leaves_and_takes_its_lease_along(world: FakeWorld) -> None:
    first = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    await world.clock.advance(0.5)
    (taken_along,) = standing(world)
    second = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    await world.clock.settle()

    first.cancel()

    lease = (await second).lease
    assert standing(world) == {lease.id} != {taken_along}


async def test_a_lease_on_a_unit_stands_though_systemd_cannot_be_had_to_watch_it(world: FakeWorld) -> None:
    async def refuse(*_: object) -> None:
        raise UnitFailed("no systemd on this bus", "unavailable")

    world.units.watch = refuse  # type: ignore[method-assign, assignment]

    assert {(await world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT)).lease.id} == standing(world)


async def test_what_nobody_thought_of_leaves_no_lease_and_no_waiting_request(world: FakeWorld) -> None:
    async def break_off(*_: object) -> None:
        raise RuntimeError("nobody thought of this")

    world.units.watch = break_off  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        await world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT)
    world.vram.read = break_off  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=0))

    assert (standing(world), len(world.arbiter.scheduler)) == (set(), 0)
    await world.clock.settle()
    assert world.store.leases == {}


async def test_a_lease_that_has_ended_is_shared_no_longer(world: FakeWorld) -> None:
    leases = [(await world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT)).lease.id for _ in range(2)]
    assert world.arbiter.leases.shared == {leases[0]} == {leases[1]}

    await world.arbiter.release(leases[0], LeaseEnd.RELEASED)

    assert world.arbiter.leases.shared == set()


async def test_two_calls_with_one_token_that_wait_for_what_was_measured_have_one_lease() -> None:
    spec = by_unit("image", UNKNOWN_MIB, vram_auto=True)
    world = await at_work(spec)
    memory, times = Footprint().with_stay(9000, 9000), Learned()
    world.archive.keep_learned(
        "image", {"is": identity(spec), "memory": memory.to_record(), "times": times.to_record()}
    )
    read = world.archive.read_learned

    async def slowly() -> dict[str, dict[str, Any]]:
        await world.clock.sleep(1.0)
        return await read()

    world.archive.read_learned = slowly  # type: ignore[method-assign]
    calls = [world.arbiter.acquire(client(), "image", AcquireOptions(token="t")) for _ in range(2)]

    first, second = await asyncio.gather(*calls)

    assert standing(world) == {first.lease.id} == {second.lease.id}
