"""A driver that fails temporarily or permanently: unknown memory is not zero, and a device keeps its size."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import DeviceUnavailable, EvictionFailed, TimedOut
from gpumand.domain.events import EvictionFailed as Failed
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, lazy, ooms, reports, routed

UNLIMITED = SchedulerSettings(concurrent_leases=0)
HANGS = "nvml-hangs: a driver call has not returned"


def crowded_device(voice_mib: int = 8000, game_mib: int = 8000) -> FakeWorld:
    """A device on which voice fits only without image."""
    world = FakeWorld([routed("image", 13312), routed("voice", voice_mib)])
    world.vram.read_sec = READ_SEC
    world.routes.place("image", 13312)
    world.vram.hold(1, game_mib, name="game")
    return world


async def acquired_while_the_driver_fails(world: FakeWorld, seconds: float) -> Grant:
    """Acquire voice; readings fail for some seconds from the unload call on."""
    asking = asyncio.create_task(world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: "image" in world.routes.called("unload"))
    world.vram.fail(HANGS)
    await world.clock.sleep(seconds)
    world.vram.fail("")
    return await asking


async def test_missing_reading_does_not_verify_an_eviction() -> None:
    world = crowded_device()
    world.routes.consumer("image").lies = True
    await world.start()

    with pytest.raises(EvictionFailed, match="image released no VRAM when evicted"):
        await acquired_while_the_driver_fails(world, 3.0)

    assert (reports(world), world.arbiter.status().stats.evictions) == ([], 0)
    assert [report.freed_mib for report in reports(world, Failed)] == [0]
    assert world.routes.called("load") == []


async def test_memory_freed_during_a_driver_failure_is_noticed_afterwards() -> None:
    world = crowded_device()
    await world.start()

    grant = await acquired_while_the_driver_fails(world, 3.0)

    assert grant.evicted == ("image",)
    assert [(report.freed_mib, report.verified) for report in reports(world)] == [(13312, True)]


async def test_eviction_fails_when_readings_stop_permanently() -> None:
    world = crowded_device(
        voice_mib=12000, game_mib=4000
    )  # by declared footprints it does not fit together with image either
    await world.start()

    with pytest.raises(EvictionFailed):
        await acquired_while_the_driver_fails(world, 30.0)

    (report,) = reports(world, Failed)
    assert "VRAM could not be read within 10 s" in report.error
    assert reports(world) == []


async def test_device_keeps_its_known_size_when_the_driver_fails() -> None:
    world = FakeWorld([routed(name, 13000) for name in "abc"], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.acquire(client(), "a", AcquireOptions())
    world.vram.fail(HANGS)
    await world.clock.sleep(3.0)

    assert world.arbiter.status().devices[0].total_mib == 24564
    for name in "bc":
        with pytest.raises(TimedOut, match="is reserved for a"):
            await world.arbiter.acquire(client(2), name, AcquireOptions())
    assert world.routes.called("load") == ["a"]
    assert ooms(world) == 0
    housekeeping.cancel()


async def test_reservations_stay_within_the_known_size_when_the_driver_fails() -> None:
    world = FakeWorld([lazy("a", 13000), lazy("b", 13000)], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    grant = await world.arbiter.acquire(client(), "a", AcquireOptions())
    world.vram.fail(HANGS)
    await world.clock.sleep(3.0)

    with pytest.raises(TimedOut, match="is reserved for a"):
        await world.arbiter.acquire(client(2), "b", AcquireOptions())
    await world.arbiter.release(grant.lease.id)
    with pytest.raises(DeviceUnavailable, match="nvml-hangs"):
        await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=30))
    world.vram.fail("")

    assert (await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=100))).lease.consumer == "b"
    housekeeping.cancel()


async def test_configured_uuid_is_accepted_when_no_device_is_known() -> None:
    world = FakeWorld([routed("a", 5000, devices=("GPU-1234",))])
    world.vram.fail("nvml-library-missing: no driver")
    world.vram._devices.clear()  # without a driver from the start no device has ever been listed
    await world.start()

    assert (await world.arbiter.acquire(client(), "a", AcquireOptions())).loaded


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "degraded" in message or "read again" in message]


async def test_continuing_failure_is_logged_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    world = crowded_device()
    await world.start()
    assert logged(caplog) == [], "before the first reading nothing is degraded"
    for seconds in range(5, 9):
        world.vram.fail(f"nvml-hangs: a driver call has not returned for {seconds} s")
        await world.arbiter.state.sample()
    world.vram.fail("")
    await world.arbiter.state.sample()
    assert logged(caplog) == [
        "degraded: nvml-hangs: a driver call has not returned for 5 s",
        "VRAM can be read again",
    ]


async def test_failure_of_a_single_device_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    world = crowded_device()
    await world.start()
    world.vram.fail_device(0, "device-lost: it fell off the bus")
    await world.arbiter.state.sample()
    await world.arbiter.state.sample()
    assert logged(caplog) == ["degraded: device 0: device-lost: it fell off the bus"]
