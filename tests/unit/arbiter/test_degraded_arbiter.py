"""A driver that fails for a moment or for good: unknown is not zero, and a card does not shrink."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import EvictionFailed, TimedOut
from gpumand.domain.events import EvictionFailed as Failed
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, lazy, ooms, reports, routed

UNLIMITED = SchedulerSettings(concurrent_leases=0)
HANGS = "nvml-hangs: a driver call has not returned"


def crowded(voice_mib: int = 8000, game_mib: int = 8000) -> FakeWorld:
    """Room for voice only where image goes."""
    world = FakeWorld([routed("image", 13312), routed("voice", voice_mib)])
    world.vram.read_sec = READ_SEC
    world.routes.place("image", 13312)
    world.vram.hold(1, game_mib, name="game")
    return world


async def acquired_while_the_driver_fails(world: FakeWorld, seconds: float) -> Grant:
    """Acquire voice; from the unload call on there are no figures for so long."""
    asking = asyncio.create_task(world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: "image" in world.routes.called("unload"))
    world.vram.fail(HANGS)
    await world.clock.sleep(seconds)
    world.vram.fail("")
    return await asking


async def test_a_moment_without_figures_verifies_no_eviction() -> None:
    world = crowded()
    world.routes.consumer("image").lies = True
    await world.start()

    with pytest.raises(EvictionFailed, match="image gave nothing back"):
        await acquired_while_the_driver_fails(world, 3.0)

    assert (reports(world), world.arbiter.status().stats.evictions) == ([], 0)
    assert [report.freed_mib for report in reports(world, Failed)] == [0]
    assert world.routes.called("load") == []


async def test_what_became_free_while_the_driver_failed_is_seen_when_it_is_back() -> None:
    world = crowded()
    await world.start()

    grant = await acquired_while_the_driver_fails(world, 3.0)

    assert grant.evicted == ("image",)
    assert [(report.freed_mib, report.verified) for report in reports(world)] == [(13312, True)]


async def test_an_eviction_during_which_figures_ended_for_good_is_no_success() -> None:
    world = crowded(voice_mib=12000, game_mib=4000)  # too much beside image by declared footprints as well
    await world.start()

    with pytest.raises(EvictionFailed):
        await acquired_while_the_driver_fails(world, 30.0)

    (report,) = reports(world, Failed)
    assert "nothing could be read within 10 s" in report.error
    assert reports(world) == []


async def test_a_card_keeps_its_size_when_its_driver_fails() -> None:
    world = FakeWorld([routed(name, 13000) for name in "abc"], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    world.vram.fail(HANGS)
    await world.clock.sleep(3.0)

    assert world.arbiter.status().devices[0].total_mib == 24564
    for name in "bc":
        with pytest.raises(TimedOut, match="promised to a"):
            await world.arbiter.acquire(client(2), name, AcquireOptions())
    assert world.routes.called("load") == ["a"]
    assert ooms(world) == 0
    housekeeping.cancel()


async def test_lazy_consumers_are_promised_no_more_than_the_card_had_before_its_driver_failed() -> None:
    world = FakeWorld([lazy("a", 13000), lazy("b", 13000)], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions())
    world.vram.fail(HANGS)
    await world.clock.sleep(3.0)

    with pytest.raises(TimedOut, match="promised to a"):
        await world.arbiter.acquire(client(2), "b", AcquireOptions())
    await world.arbiter.release(grant.lease.id)

    assert (await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=100))).lease.consumer == "b"
    housekeeping.cancel()


async def test_a_uuid_in_the_configuration_is_no_obstacle_where_no_device_can_be_seen() -> None:
    world = FakeWorld([routed("a", 5000, devices=("GPU-1234",))])
    world.vram.fail("nvml-missing: no driver")
    world.vram._devices.clear()  # no driver was there from the beginning: no device has ever been listed
    await world.start()

    assert (await world.arbiter.acquire(client(), "a", AcquireOptions())).loaded


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "degraded" in message or "there again" in message]


async def test_what_goes_on_failing_is_told_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    world = crowded()
    await world.start()
    assert told(caplog) == [], "what was not read yet is not degraded"
    for seconds in range(5, 9):
        world.vram.fail(f"nvml-hangs: a driver call has not returned for {seconds} s")
        await world.arbiter.arbiter_state.sample()
    world.vram.fail("")
    await world.arbiter.arbiter_state.sample()
    assert told(caplog) == [
        "degraded: nvml-hangs: a driver call has not returned for 5 s",
        "VRAM figures are all there again",
    ]


async def test_one_device_that_fails_is_told_too(caplog: pytest.LogCaptureFixture) -> None:
    world = crowded()
    await world.start()
    world.vram.fail_device(0, "device-lost: it fell off the bus")
    await world.arbiter.arbiter_state.sample()
    await world.arbiter.arbiter_state.sample()
    assert told(caplog) == ["degraded: device 0: device-lost: it fell off the bus"]
