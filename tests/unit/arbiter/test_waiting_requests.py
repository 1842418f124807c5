"""Changes and disconnects during awaits: no operation is left half done."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gpumand.domain.consumer import (
    UNKNOWN_MIB,
    BusyReport,
    ConsumerSpec,
    EvictionMethod,
    Health,
    Settings,
    UnitActivity,
    UnitState,
)
from gpumand.domain.device import Reading
from gpumand.domain.errors import ConsumerBackingOff, LoadFailed, ShuttingDown
from gpumand.domain.footprint import Footprint
from gpumand.domain.identity import identity
from gpumand.domain.learning import LearnedTimes
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


def active_leases(world: FakeWorld) -> set[str]:
    return set(world.arbiter.state.ledger.leases)


# -- manual evictions whose client disconnects -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [routed("a", 5000), by_unit("a", 5000), routed("a", 5000, health=None, unit="a.service", evict=BOTH)],
    ids=["by its route", "by its unit", "by both, without a report whether it is loaded"],
)
async def test_manual_eviction_completes_and_is_announced_after_its_client_disconnects(spec: ConsumerSpec) -> None:
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
    assert world.arbiter.state.ledger.jobs == {}


async def test_manual_eviction_does_not_start_after_its_client_disconnected() -> None:
    world = await at_work(routed("a", 5000))
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions())).lease
    evicting = asyncio.create_task(world.arbiter.evict("a", True, 20.0))
    await world.clock.settle()  # VRAM is being read

    evicting.cancel()

    await world.clock.sleep(5.0)
    assert (world.routes.called("unload"), active_leases(world)) == ([], {lease.id})
    assert world.arbiter.state.ledger.jobs == {}


async def test_waiting_manual_eviction_gets_shutting_down_when_the_daemon_stops() -> None:
    world = await at_work(routed("a", 5000))
    world.routes.place("a", 5000).unload_sec = 30.0
    await world.arbiter.state.sample()
    evicting = asyncio.create_task(world.arbiter.evict("a", False, 20.0))
    await world.clock.advance_until(lambda: "a" in world.routes.called("unload"))

    await world.arbiter.stop("it is time")

    with pytest.raises(ShuttingDown):
        await evicting


async def test_step_before_the_await_of_next_step_is_not_missed() -> None:
    world = await at_work(routed("a", 5000))
    moved = asyncio.ensure_future(world.arbiter.scheduler.next_step())

    world.arbiter.scheduler.step()

    await world.clock.settle()
    assert moved.done()


# -- units that change during a reading --------------------------------------------------------------------------------


async def test_unit_that_ends_during_the_final_reading_fails_its_load() -> None:
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
    assert (residency(world, "a"), active_leases(world)) == ("failed", set())
    with pytest.raises(ConsumerBackingOff):
        await world.arbiter.acquire(client(), "a", AcquireOptions())
    housekeeping.cancel()


async def test_unreachable_systemd_at_the_end_of_a_load_does_not_fail_it() -> None:
    world = await at_work(by_unit("a", 5000))
    world.units.units["a.service"].started = lambda: setattr(world.units, "unavailable", True)

    assert (await world.arbiter.acquire(client(), "a", AcquireOptions())).loaded


async def test_unit_that_restarts_during_its_eviction_keeps_its_reservation() -> None:
    world = FakeWorld([by_unit("a", 15000), by_unit("b", 15000)])
    world.vram.read_sec = 0.05
    unit = world.units.units["a.service"]
    unit.activity, unit.invocation = UnitActivity.ACTIVE, 1
    world.vram.hold(7, 15000, consumer="a")
    world.units.units["b.service"].started = lambda: world.vram.hold(8, 15000, consumer="b")
    back = list[asyncio.Task[None]]()

    async def come_back() -> None:  # as with Restart=always and a very short RestartSec=
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
    assert reserved(world) == {"a": 15000}, "its memory has not appeared yet"
    assert ("start", "b.service") not in world.units.calls

    assert (await acquiring).evicted == ("a", "a")
    assert world.units.calls.count(("stop", "a.service")) == 2
    housekeeping.cancel()


# -- late answers ------------------------------------------------------------------------------------------------------


async def test_late_answer_does_not_replace_one_requested_later() -> None:
    world = await at_work(routed("a", 5000))
    now = world.clock.monotonic()

    world.arbiter.reconciler.record_health("a", Health(reachable=True, loaded=True), now + 2.0)
    world.arbiter.reconciler.record_health("a", Health(reachable=True, loaded=False), now + 1.0)
    assert residency(world, "a") == "resident"

    world.arbiter.busy_probes.record("a", BusyReport(3), now + 2.0)
    world.arbiter.busy_probes.record("a", BusyReport(0), now + 1.0)
    assert world.arbiter.state.consumer("a").jobs == 3


# -- reloads -----------------------------------------------------------------------------------------------------------


class SlowFiles(FakeWorld):
    """A world whose configuration takes time to read, given per read."""

    read_secs: list[float]

    async def _load_settings(self) -> Settings:
        settings = self.settings
        await self.clock.sleep(self.read_secs.pop(0))
        return settings


async def test_later_of_two_reloads_is_in_force() -> None:
    world = SlowFiles([routed("a", 5000)])
    world.read_secs = [2.0, 1.0]
    await world.start()
    first = asyncio.create_task(world.arbiter.reload())
    await world.clock.settle()
    world.settings = replace(world.settings, consumers={})
    second = asyncio.create_task(world.arbiter.reload())

    await asyncio.gather(first, second)

    assert world.arbiter.status().consumers == ()


async def test_reload_completes_after_its_client_disconnects() -> None:
    world = SlowFiles([routed("a", 5000)])
    world.read_secs = [2.0]
    await world.start()
    world.settings = replace(world.settings, consumers={})
    reloading = asyncio.create_task(world.arbiter.reload())
    await world.clock.settle()

    reloading.cancel()

    await world.clock.sleep(3.0)
    assert world.arbiter.status().consumers == ()


# -- writes to disk ----------------------------------------------------------------------------------------------------


async def test_pin_is_not_overwritten_by_a_concurrent_last_use() -> None:
    world = await at_work(routed("a", 5000))
    await world.arbiter.release((await world.arbiter.acquire(client(), "a", AcquireOptions())).lease.id)
    world.store.stall()
    pinning = asyncio.create_task(world.arbiter.pin("a", True))
    await world.clock.settle()
    keeping = asyncio.create_task(world.arbiter.leases.save_last_uses())
    await world.clock.settle()
    world.store.resume()

    await asyncio.gather(pinning, keeping)

    pinned, lease_ended_usec = world.store.consumers["a"]
    assert pinned is True
    assert lease_ended_usec == world.arbiter.state.consumer("a").lease_ended_usec > 0


async def test_interrupted_last_uses_are_written_at_the_end() -> None:
    world = await at_work(routed("a", 3000), routed("b", 3000))
    for name in ("a", "b"):
        await world.arbiter.release((await world.arbiter.acquire(client(), name, AcquireOptions())).lease.id)
    world.store.stall()
    keeping = asyncio.create_task(world.arbiter.leases.save_last_uses())
    await world.clock.settle()

    keeping.cancel()
    await world.clock.settle()
    world.store.resume()
    await world.arbiter.stop("it is time")

    assert set(world.store.consumers) == {"a", "b"}


async def test_renewal_keeps_a_device_index_that_changed_meanwhile() -> None:
    world = await at_work(routed("a", 5000, devices=("1",)), total_mib=(24564, 24564))
    world.routes.consumer("a").device = 1
    lease = (await world.arbiter.acquire(client(), "a", AcquireOptions())).lease
    world.store.stall()
    renewing = asyncio.create_task(world.arbiter.renew(lease.id, 5000))
    await world.clock.settle()
    await world.clock.advance(1.0)
    card = replace(world.arbiter.state.device(1), index=0, taken_at=world.clock.monotonic())
    world.arbiter.state.store_reading(Reading((card,)))  # the device before it was removed
    world.store.resume()

    assert (await renewing).device == "0"
    assert world.arbiter.lease(lease.id).device == "0"


# -- leases whose client disconnects -----------------------------------------------------------------------------------

RUN = client(3, unit="job.service", invocation_id=f"{1:032x}")
FOR_ITS_UNIT = AcquireOptions(LeaseLifetime.UNIT, token="t")


@pytest.fixture
async def world() -> FakeWorld:
    """A loaded service and a job that acquires it; systemd takes a second for each answer about the job."""
    world = await at_work(routed("a", 5000), routed("b", 5000))
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    await world.arbiter.load("a", "", 60.0)
    ask = world.units.state

    async def slowly(unit: str) -> UnitState:
        await world.clock.sleep(1.0 if unit == "job.service" else 0.0)
        return await ask(unit)

    world.units.state = slowly  # type: ignore[method-assign]
    return world


async def test_shared_lease_survives_the_disconnect_of_its_first_caller(
    world: FakeWorld,
) -> None:
    first = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    await world.clock.advance(0.5)
    second = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    world.arbiter.leases.shared.update(active_leases(world))  # as if systemd had answered the second query first

    first.cancel()

    assert {(await second).lease.id} == active_leases(world)


async def test_second_call_is_served_when_the_first_disconnects_with_its_lease(world: FakeWorld) -> None:
    first = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    await world.clock.advance(0.5)
    (taken_along,) = active_leases(world)
    second = asyncio.create_task(world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT))
    await world.clock.settle()

    first.cancel()

    lease = (await second).lease
    assert active_leases(world) == {lease.id} != {taken_along}


async def test_unit_lease_is_granted_when_its_unit_cannot_be_watched(world: FakeWorld) -> None:
    async def refuse(*_: object) -> None:
        raise UnitFailed("no systemd on this bus", "unavailable")

    world.units.watch = refuse  # type: ignore[method-assign, assignment]

    assert {(await world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT)).lease.id} == active_leases(world)


async def test_unexpected_error_leaves_no_lease_and_no_waiting_request(world: FakeWorld) -> None:
    async def break_off(*_: object) -> None:
        raise RuntimeError("unexpected")

    world.units.watch = break_off  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        await world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT)
    world.vram.read = break_off  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError):
        await world.arbiter.acquire(client(), "b", AcquireOptions(timeout_sec=0))

    assert (active_leases(world), len(world.arbiter.scheduler)) == (set(), 0)
    await world.clock.settle()
    assert world.store.leases == {}


async def test_ended_lease_is_not_shared_any_more(world: FakeWorld) -> None:
    leases = [(await world.arbiter.acquire(RUN, "a", FOR_ITS_UNIT)).lease.id for _ in range(2)]
    assert world.arbiter.leases.shared == {leases[0]} == {leases[1]}

    await world.arbiter.release(leases[0], LeaseEnd.RELEASED)

    assert world.arbiter.leases.shared == set()


async def test_two_calls_with_one_token_during_a_slow_restore_share_one_lease() -> None:
    spec = by_unit("image", UNKNOWN_MIB, vram_auto=True)
    world = await at_work(spec)
    memory, times = Footprint().with_stay(9000, 9000), LearnedTimes()
    world.archive.save_learned(
        "image", {"is": identity(spec), "memory": memory.to_record(), "times": times.to_record()}
    )
    read = world.archive.read_learned

    async def slowly() -> dict[str, dict[str, Any]]:
        await world.clock.sleep(1.0)
        return await read()

    world.archive.read_learned = slowly  # type: ignore[method-assign]
    calls = [world.arbiter.acquire(client(), "image", AcquireOptions(token="t")) for _ in range(2)]

    first, second = await asyncio.gather(*calls)

    assert active_leases(world) == {first.lease.id} == {second.lease.id}
