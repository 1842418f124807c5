"""Devices that cannot be read: unknown memory is never free memory, and each kind of failure has its answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.errors import DeviceUnavailable, InsufficientVram, TimedOut
from gpumand.domain.request import AcquireOptions, Grant, Verdict
from gpumand.domain.unread_devices import reset_command
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, reports, routed

FAILS = "nvml-error: Unknown Error (NVML error 999)"
HANGS = "nvml-hangs: a driver call has not returned"
LONG = AcquireOptions(timeout_sec=60)
NOW = AcquireOptions(timeout_sec=0)


def beside_a_game(*mib: int, game_mib: int = 20000) -> FakeWorld:
    """A device of 24564 MiB with a game on it, and consumers a, b …"""
    specs = [routed(name, one) for name, one in zip("abc", mib, strict=False)]
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.read_sec = READ_SEC
    world.vram.hold(1, game_mib, name="game")
    return world


def asking(world: FakeWorld, name: str, options: AcquireOptions = LONG) -> asyncio.Task[Grant]:
    return asyncio.create_task(world.arbiter.acquire(client(), name, options))


async def test_one_failed_reading_is_repeated_before_the_decision() -> None:
    world = beside_a_game(8000)
    await world.start()
    world.vram.fail_device(0, FAILS)
    request = asking(world, "a")
    await world.clock.sleep(0.6)
    assert not request.done(), "it is not decided on the failed reading"
    world.vram.fail_device(0, "")

    with pytest.raises(InsufficientVram, match=r"held: 19\.5 GiB by game"):
        await request


@pytest.mark.parametrize("options", [LONG, NOW], ids=["waits", "does not wait"])
async def test_what_others_held_at_the_last_reading_still_counts(options: AcquireOptions) -> None:
    world = beside_a_game(8000)
    await world.start()
    await world.clock.sleep(30)
    world.vram.fail_device(0, FAILS)
    began = world.clock.monotonic()

    with pytest.raises(InsufficientVram, match=r"19\.5 GiB by other programs at the last reading, 3\d s ago.*999"):
        await world.arbiter.acquire(client(), "a", options)

    assert 2.0 <= world.clock.monotonic() - began < 3.0
    assert world.routes.called("load") == []


async def test_what_fits_beside_the_last_reading_is_loaded_once() -> None:
    world = beside_a_game(3000, 3000)
    await world.start()
    world.vram.fail_device(0, FAILS)

    assert "at the last reading" in (await world.arbiter.plan(client(), "a", LONG)).message
    assert (await world.arbiter.acquire(client(), "a", LONG)).loaded
    with pytest.raises(TimedOut, match="leased to a"):
        await world.arbiter.acquire(client(2), "b", LONG)

    assert world.routes.called("load") == ["a"], "what was loaded since the last reading counts as well"


async def test_request_waits_while_the_driver_hangs() -> None:
    world = beside_a_game(8000)
    await world.start()
    world.vram.hang()
    request = asking(world, "a")
    await world.clock.sleep(7)
    assert not request.done()
    world.vram.resume()

    with pytest.raises(InsufficientVram, match="by game"):
        await request


async def test_request_waits_for_the_first_reading() -> None:
    world = beside_a_game(3000)
    world.vram.hang()
    await world.start()
    request = asking(world, "a")
    await world.clock.sleep(8)
    assert not request.done()
    assert world.routes.called("load") == []
    world.vram.resume()

    assert (await request).loaded


@pytest.mark.parametrize("first", [True, False], ids=["never read", "read before"])
@pytest.mark.parametrize("timeout_sec", [0.0, 1.0, 20.0])
async def test_request_for_a_driver_that_hangs_ends_with_device_unavailable(timeout_sec: float, *, first: bool) -> None:
    world = beside_a_game(3000)
    if not first:
        await world.start()
    world.vram.hang()
    if first:
        await world.start()

    with pytest.raises(DeviceUnavailable):
        await world.arbiter.acquire(client(), "a", AcquireOptions(timeout_sec=timeout_sec))

    assert world.routes.called("load") == []
    assert world.arbiter.status().queue == ()


async def test_request_waits_for_a_driver_that_is_not_initialised_yet() -> None:
    world = beside_a_game(3000)
    devices, world.vram._devices = world.vram._devices, []
    world.vram.fail("driver-not-loaded: the NVIDIA kernel module is not loaded")
    await world.start()
    request = asking(world, "a")
    await world.clock.sleep(8)
    assert not request.done()
    assert world.vram.renewals > 3, "a source that failed as a whole is opened again while a request waits"
    world.vram._devices = devices
    world.vram.fail("")

    assert (await request).loaded


async def test_driver_of_another_version_gets_no_blind_load() -> None:
    world = beside_a_game(3000)
    world.vram._devices.clear()
    world.vram.fail("driver-mismatch: the NVML library and the kernel module have different versions")
    await world.start()

    with pytest.raises(DeviceUnavailable, match="driver-mismatch"):
        await world.arbiter.acquire(client(), "a", LONG)


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize("total_mib", [None, 24564])
async def test_device_that_only_ever_failed_must_be_named_and_its_size_set(
    total_mib: int | None, *, is_named: bool
) -> None:
    world = FakeWorld([routed("a", 8000, devices=("0",) if is_named else ())])
    world.settings = replace(world.settings, gpu=replace(world.settings.gpu, total_mib=total_mib))
    await world.arbiter.reload()
    world.vram.fail_device(0, "nvml-error: Insufficient Permissions (NVML error 4)")
    await world.start()

    if is_named and total_mib:
        assert (await world.arbiter.acquire(client(), "a", LONG)).loaded
        return
    with pytest.raises(DeviceUnavailable, match=r"has never been read: .*error 4.*\[gpu\] total_mib"):
        await world.arbiter.acquire(client(), "a", LONG)


async def test_device_named_by_the_request_may_be_used_by_declared_footprints() -> None:
    world = FakeWorld([routed("a", 8000)])
    world.settings = replace(world.settings, gpu=replace(world.settings.gpu, total_mib=24564))
    await world.arbiter.reload()
    world.vram.fail_device(0, FAILS)
    await world.start()

    assert (await world.arbiter.acquire(client(), "a", AcquireOptions(device="0"))).loaded


@pytest.mark.parametrize("later", [FAILS, "no-devices: the driver lists no GPU", HANGS])
async def test_device_is_lost_until_a_reading_succeeds(later: str) -> None:
    world = beside_a_game(3000)
    await world.start()
    world.vram.fail_device(0, "gpu-lost: the GPU has fallen off the bus", lost=True)
    await world.arbiter.state.sample()
    world.vram.fail_device(0, "")
    world.vram.fail(later)
    await world.arbiter.state.sample()

    with pytest.raises(DeviceUnavailable, match="device 0 is lost: gpu-lost"):
        await world.arbiter.acquire(client(), "a", LONG)
    world.vram.fail("")

    assert (await world.arbiter.acquire(client(), "a", LONG)).loaded


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ("gpu-lost: the GPU has fallen off the bus", "reboot the host"),
        ("gpu-reset-required: the GPU must be reset", ": sudo gpumanctl gpu release -- nvidia-smi --gpu-reset --id=0$"),
    ],
)
async def test_advice_for_a_lost_gpu_resets_no_other_gpu(error: str, advice: str) -> None:
    world = beside_a_game(3000)
    world.vram.name = "nvml"
    await world.start()
    world.vram.fail_device(0, error, lost=True)
    await world.arbiter.state.sample()

    with pytest.raises(DeviceUnavailable, match=advice):
        await world.arbiter.acquire(client(), "a", LONG)


@pytest.mark.parametrize(
    ("device", "aliases", "command"),
    [
        (1, ("0000:03:00.0", "PCI-0000:03:00.0"), "nvidia-smi --gpu-reset --id=0000:03:00.0"),
        (205, (), "nvidia-smi --gpu-reset --id=1"),
        (10_002, (), "nvidia-smi --gpu-reset --id=2"),
    ],
)
def test_reset_names_its_gpu(device: int, aliases: tuple[str, ...], command: str) -> None:
    assert reset_command(device, aliases) == command


@pytest.mark.parametrize("error", ["no-devices: the driver lists no GPU", "driver-lost: NVML error 999"])
async def test_driver_that_knows_no_device_any_more_has_lost_them(error: str) -> None:
    world = beside_a_game(3000)
    await world.start()
    world.vram.fail(error)

    with pytest.raises(DeviceUnavailable, match=f"device 0 is lost: {error}"):
        await world.arbiter.acquire(client(), "a", LONG)


async def test_device_that_vanishes_is_lost_and_the_other_one_is_used() -> None:
    world = FakeWorld([routed("a", 8000), routed("b", 8000, devices=("FAKE-1",))], total_mib=(24564, 24564))
    await world.start()
    world.vram._devices.pop()
    await world.arbiter.state.sample()

    assert [(one.uuid, bool(one.error)) for one in world.arbiter.status().devices] == [
        ("FAKE-0", False),
        ("FAKE-1", True),
    ]
    assert (await world.arbiter.acquire(client(), "a", LONG)).lease.device == "0"
    with pytest.raises(DeviceUnavailable, match="lost"):
        await world.arbiter.acquire(client(), "b", LONG)


@pytest.mark.parametrize("lost", [True, False])
async def test_an_ill_gpu_does_not_delay_requests_for_the_other_one(*, lost: bool) -> None:
    world = FakeWorld([routed("a", 8000)], total_mib=(24564, 24564))
    await world.start()
    world.vram.fail_device(0, FAILS, lost=lost)
    await world.arbiter.state.sample()
    request = asking(world, "a")
    await world.clock.sleep(0.5)

    assert world.routes.called("load") == ["a"]
    assert (await request).lease.device == "1"


async def test_nothing_is_evicted_while_no_reading_could_verify_it() -> None:
    world = beside_a_game(13312, 12000, game_mib=4000)
    world.routes.place("a", 13312)
    await world.start()
    world.vram.fail_device(0, FAILS)
    request = asking(world, "b")
    await world.clock.sleep(10)

    assert "nothing is evicted while device 0 cannot be read" in world.arbiter.status().queue[0].waiting_for
    assert world.routes.called("unload") == []
    world.vram.fail_device(0, "")

    assert (await request).evicted == ("a",)
    assert [report.verified for report in reports(world)] == [True]


async def test_host_without_a_source_says_that_loads_are_not_checked() -> None:
    world = FakeWorld([routed("a", 8000)])
    world.vram._devices.clear()
    world.vram.fail("nvml-library-missing: libnvidia-ml.so.1 is not installed")
    await world.start()
    text = "loads are not checked against real memory; set [gpu] total_mib"

    plan = await world.arbiter.plan(client(), "a", LONG)

    assert plan.verdict is Verdict.GRANT
    assert text in plan.message
    assert text in world.arbiter.status().degraded
    assert (await world.arbiter.acquire(client(), "a", LONG)).loaded
