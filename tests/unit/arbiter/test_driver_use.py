"""The driver is closed while nothing needs readings, and a sleeping card is not woken for one."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from gpumand.domain.driver_power import NO_POWER, CardPower, CardState, DriverPower, DriverState
from gpumand.domain.events import DevicesChanged
from gpumand.domain.request import AcquireOptions
from gpumand.domain.telemetry import MAX_POINTS, NO_TELEMETRY, Telemetry
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed

ADDRESS = "0000:01:00.0"
AWAKE = DriverPower((CardPower(ADDRESS, CardState.ACTIVE, can_sleep=True),))
ASLEEP = DriverPower((CardPower(ADDRESS, CardState.ASLEEP, can_sleep=True),))
DESKTOP = DriverPower((CardPower(ADDRESS, CardState.ACTIVE, can_sleep=False),))


async def running(world: FakeWorld, power: DriverPower) -> asyncio.Task[None]:
    world.vram.power_state = power
    await world.start()
    return asyncio.create_task(world.housekeeping.run())


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def state_of(world: FakeWorld) -> DriverState:
    return world.arbiter.state.driver_state


async def reads_in(world: FakeWorld, seconds: float) -> int:
    before = world.vram.reads
    await world.clock.sleep(seconds)
    return world.vram.reads - before


@pytest.mark.parametrize("power", [NO_POWER, DESKTOP, AWAKE])
async def test_driver_is_closed_where_no_consumer_is_configured(power: DriverPower) -> None:
    world = FakeWorld([])
    task = await running(world, power)

    await world.clock.sleep(70)

    assert not world.vram.is_open
    assert await reads_in(world, 600) == 0
    await end(task)


async def test_driver_of_a_card_that_could_sleep_is_closed_after_the_idle_time() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    task = await running(world, AWAKE)
    assert await reads_in(world, 50) >= 20
    await world.clock.sleep(20)

    assert not world.vram.is_open
    assert await reads_in(world, 600) == 0, "nor by the states of units, which are queried every minute"
    await end(task)


@pytest.mark.parametrize("power", [NO_POWER, DESKTOP])
async def test_driver_of_a_card_that_cannot_sleep_stays_open_for_consumers(power: DriverPower) -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    task = await running(world, power)

    await world.clock.sleep(600)

    assert world.vram.releases == 0
    assert await reads_in(world, 20) >= 9
    assert world.vram.power_looks <= 70, "the files of the kernel are read rarely"
    await end(task)


async def test_driver_stays_open_if_the_configuration_says_so() -> None:
    world = FakeWorld([])
    gpu = replace(world.settings.gpu, idle_release_sec=0.0)
    world.settings = world.arbiter.state.settings = replace(world.settings, gpu=gpu)
    task = await running(world, AWAKE)

    await world.clock.sleep(600)

    assert world.vram.releases == 0
    await end(task)


async def test_sleeping_card_is_not_woken_by_the_start_of_the_daemon_nor_by_a_status() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    task = await running(world, ASLEEP)
    await world.clock.sleep(600)

    reading = world.arbiter.status_refresh()
    assert reading is not None
    await reading

    assert (world.vram.reads, world.vram.is_open) == (0, False)
    assert world.arbiter.status().degraded == "", "nothing has failed"
    await end(task)


async def test_request_wakes_the_card_and_finds_its_devices() -> None:
    world = FakeWorld([by_unit("llm", 8000, devices=("FAKE-0",))])
    task = await running(world, ASLEEP)
    await world.clock.sleep(600)

    granted = await world.arbiter.acquire(client(1), "llm", AcquireOptions(device="FAKE-0"))

    assert granted.lease.device == "0"
    assert world.vram.is_open
    assert await reads_in(world, 20) >= 9, "a leased consumer is watched"
    await end(task)


async def test_plan_wakes_a_card_that_was_never_read() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    task = await running(world, ASLEEP)
    plan = await world.arbiter.plan(client(1), "llm", AcquireOptions())
    assert plan.free_mib is not None
    await end(task)


async def test_driver_is_closed_again_after_a_request_and_not_while_its_consumer_is_in_vram() -> None:
    world = FakeWorld([routed("llm", 8000)])
    task = await running(world, AWAKE)
    await world.clock.sleep(70)
    lease = (await world.arbiter.acquire(client(1), "llm", AcquireOptions())).lease
    await world.arbiter.release(lease.id)
    await world.clock.sleep(600)
    was_open = world.vram.is_open
    assert was_open, "the consumer is resident, so the card is awake anyway"

    await world.arbiter.evict("llm", False, 10.0)
    await world.clock.sleep(70)

    assert not world.vram.is_open
    await end(task)


async def test_model_that_another_program_loads_is_noticed_while_the_driver_rests() -> None:
    world = FakeWorld([routed("llm", 8000)])
    task = await running(world, AWAKE)
    await world.clock.sleep(70)
    assert not world.vram.is_open

    llm = world.routes.consumer("llm")
    llm.loaded, llm.held_mib = True, 8000
    world.vram.hold(llm.pid, 8000, consumer="llm")
    await world.clock.sleep(30)

    assert world.arbiter.consumer_status("llm").used_mib == 8000
    await end(task)


async def test_status_of_a_card_that_cannot_sleep_is_read_again_for_the_reader() -> None:
    world = FakeWorld([])
    task = await running(world, DESKTOP)
    await world.clock.sleep(600)
    world.vram.hold(7, 5000, name="game")

    reading = world.arbiter.status_refresh()
    assert reading is not None
    await reading

    assert world.arbiter.status().devices[0].used_mib == 5000
    assert world.arbiter.status_refresh() is None, "readings are taken again for a while"
    await world.clock.sleep(70)
    assert not world.vram.is_open
    await end(task)


async def test_driver_that_does_not_answer_is_read_on() -> None:
    world = FakeWorld([])
    world.vram.release_error = "a driver call has not returned for 5 s"
    task = await running(world, NO_POWER)

    await world.clock.sleep(100)

    assert state_of(world) is DriverState.OPEN
    await end(task)


async def test_status_says_whether_the_driver_is_open_and_shows_no_old_telemetry() -> None:
    world = FakeWorld([by_unit("llm", 8000)])
    world.vram.telemetry = Telemetry(30, 50)
    task = await running(world, AWAKE)
    await world.clock.sleep(10)
    shown = world.arbiter.status()
    assert (shown.driver_state, shown.devices[0].telemetry) == ("open", Telemetry(30, 50))

    await world.clock.sleep(70)
    shown = world.arbiter.status()
    assert (shown.driver_state, shown.devices[0].telemetry) == ("resting", NO_TELEMETRY)
    assert shown.devices[0].used_mib == 0, "memory is that of the last reading, whose time is in the status"
    world.vram.power_state = ASLEEP
    await world.clock.sleep(15)
    assert world.arbiter.status().driver_state == "asleep"
    await end(task)


async def test_card_that_falls_asleep_while_its_driver_is_closed_is_shown_and_announced() -> None:
    world = FakeWorld([by_unit("llm", 8000)], total_mib=(24564, 8192))
    world.vram.describe(0, aliases=(ADDRESS, f"PCI-{ADDRESS}"))
    world.vram.describe(1, aliases=("0000:02:00.0", "PCI-0000:02:00.0"))
    task = await running(world, AWAKE)
    await world.clock.sleep(70)
    assert [one.asleep for one in world.arbiter.status().devices] == [False, False]
    announced = len(world.named(DevicesChanged))

    world.vram.power_state = ASLEEP
    await world.clock.sleep(15)
    assert [one.asleep for one in world.arbiter.status().devices] == [True, False]
    assert len(world.named(DevicesChanged)) == announced + 1
    await world.clock.sleep(60)
    assert len(world.named(DevicesChanged)) == announced + 1

    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    assert [one.asleep for one in world.arbiter.status().devices] == [False, False]
    assert len(world.named(DevicesChanged)) == announced + 2
    await end(task)


async def test_history_has_a_point_for_each_interval_and_is_bounded() -> None:
    world = FakeWorld([routed("llm", 8000), routed("idle", 100)])
    world.vram.telemetry = Telemetry(30)
    task = await running(world, DESKTOP)
    await world.arbiter.acquire(client(1), "llm", AcquireOptions())
    await world.clock.sleep(20)

    shown = world.arbiter.status()
    (llm, idle) = shown.consumers
    assert len(shown.history_usec) == len(shown.devices[0].history["used_mib"])
    assert shown.devices[0].history["used_mib"][-3:] == llm.used_mib_history[-3:] == (8000,) * 3
    assert shown.devices[0].history["utilization_percent"][-1] == 30
    assert "power_watts" not in shown.devices[0].history
    assert idle.used_mib_history == ()
    steps = {later - earlier for earlier, later in pairwise(shown.history_usec)}
    assert all(1_900_000 <= step <= 2_100_000 for step in steps), "readings of a load are not among them"

    await world.clock.sleep(1000)
    assert len(world.arbiter.status().history_usec) == MAX_POINTS
    await end(task)
