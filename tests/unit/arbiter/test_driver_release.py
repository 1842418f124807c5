"""gpumanctl gpu release: the driver is closed on request, requests wait, and the driver is taken again."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.device import Devices, Reading
from gpumand.domain.driver_power import DriverState
from gpumand.domain.driver_release import ReleaseOptions
from gpumand.domain.errors import Busy, DeviceUnavailable, TimedOut
from gpumand.domain.events import SummaryChanged
from gpumand.domain.request import AcquireOptions
from gpumand.testing.vram import FakeVram
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import hold_foreign_memory, routed

ROOT = client(9, uid=0)


@pytest.fixture
async def world() -> FakeWorld:
    world = FakeWorld([routed("llm", 8000), routed("tts", 2000)])
    await world.start()
    return world


def state_of(world: FakeWorld) -> DriverState:
    return world.arbiter.state.driver_state


async def test_requests_wait_with_a_message_and_are_served_when_the_driver_is_taken(world: FakeWorld) -> None:
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))
    assert not world.vram.is_open
    waiting = asyncio.create_task(world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=3600)))
    await world.clock.sleep(60)

    (entry,) = world.arbiter.status().queue
    assert entry.waiting_for == (
        "the GPU driver is released by uid 0 for at most 300 s. Take it again: gpumanctl gpu take"
    )
    assert world.arbiter.status().degraded.startswith("driver-released: ")
    assert not world.vram.is_open

    assert world.arbiter.take_gpu()
    assert (await waiting).loaded
    assert world.arbiter.status().degraded == ""


async def test_release_and_its_end_are_announced_at_once(world: FakeWorld) -> None:
    world.arbiter.state.publish_changes()
    world.events.clear()
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))
    assert world.named(SummaryChanged)
    world.events.clear()
    world.arbiter.take_gpu()
    assert world.named(SummaryChanged)


async def test_release_of_a_resting_driver_is_announced(world: FakeWorld) -> None:
    world.arbiter.state.driver_state = DriverState.RESTING
    world.arbiter.state.publish_changes()
    world.events.clear()
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))
    assert world.named(SummaryChanged)
    assert world.arbiter.summary().degraded.startswith("driver-released: ")


async def test_no_reading_opens_the_driver_during_a_release(world: FakeWorld) -> None:
    task = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=600))
    before = world.vram.reads

    await world.clock.sleep(500)
    await world.arbiter.plan(client(1), "llm", AcquireOptions())
    assert (world.vram.reads, world.vram.is_open) == (before, False)
    task.cancel()


async def test_release_ends_by_itself(world: FakeWorld) -> None:
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))
    waiting = asyncio.create_task(world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=3600)))
    await world.clock.sleep(299)
    assert not waiting.done()

    assert (await waiting).loaded
    assert state_of(world) is DriverState.OPEN
    assert not world.arbiter.take_gpu()


async def test_end_of_an_earlier_release_does_not_end_a_later_one(world: FakeWorld) -> None:
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))
    world.arbiter.take_gpu()
    await world.clock.sleep(200)
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))

    await world.clock.sleep(200)

    assert state_of(world) is DriverState.RELEASED


async def test_release_ends_with_the_connection_it_is_bound_to_and_with_no_other(world: FakeWorld) -> None:
    ended: list[str] = []
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(bound=True), lambda: ended.append("ended"))
    await world.arbiter.owner_vanished(client(1).bus_name)
    assert (state_of(world), ended) == (DriverState.RELEASED, [])

    await world.arbiter.owner_vanished(ROOT.bus_name)

    assert (state_of(world), ended) == (DriverState.OPEN, ["ended"])


async def test_release_that_is_not_bound_outlives_its_client(world: FakeWorld) -> None:
    await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    await world.arbiter.owner_vanished(ROOT.bus_name)
    assert state_of(world) is DriverState.RELEASED


async def test_consumers_that_use_the_gpu_prevent_a_release_unless_it_is_forced(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "llm", AcquireOptions())).lease
    with pytest.raises(Busy, match=r"consumers use the GPU: llm. Evict them first \(gpumanctl evict llm\)"):
        await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    assert state_of(world) is DriverState.OPEN

    report = await world.arbiter.release_gpu(ROOT, ReleaseOptions(force=True))

    assert [one.consumer for one in report.holders] == ["llm"]
    assert lease.id in world.arbiter.state.ledger.leases


async def test_reservation_prevents_a_release(world: FakeWorld) -> None:
    lease = (await world.arbiter.acquire(client(1), "", AcquireOptions(vram_mib=1000))).lease
    with pytest.raises(Busy, match=lease.id):
        await world.arbiter.release_gpu(ROOT, ReleaseOptions())


async def test_foreign_processes_that_keep_the_driver_open_are_named(world: FakeWorld) -> None:
    hold_foreign_memory(world, 500)
    await world.arbiter.state.sample()
    report = await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    assert [(one.pid, one.name, one.used_mib) for one in report.holders] == [(1, "firefox", 500)]


async def test_release_waits_for_a_load_and_finds_its_consumer_in_the_way(world: FakeWorld) -> None:
    world.routes.consumer("llm").load_sec = 20
    loading = asyncio.create_task(world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(1)
    began = world.clock.monotonic()

    with pytest.raises(Busy, match="llm"):
        await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    assert world.clock.monotonic() - began < 1, "a load ends with a consumer in VRAM, so it is refused at once"

    with pytest.raises(TimedOut, match="waiting for the load or eviction of llm"):
        await world.arbiter.release_gpu(ROOT, ReleaseOptions(force=True, timeout_sec=5))
    assert state_of(world) is DriverState.OPEN
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(force=True, timeout_sec=60))
    assert world.arbiter.consumer_status("llm").residency == "resident"
    world.arbiter.take_gpu()
    await loading


async def test_second_release_is_refused_and_changes_nothing(world: FakeWorld) -> None:
    await world.arbiter.release_gpu(ROOT, ReleaseOptions(duration_sec=300))
    with pytest.raises(Busy, match="is released by uid 0"):
        await world.arbiter.release_gpu(client(1), ReleaseOptions(bound=True))
    await world.arbiter.owner_vanished(client(1).bus_name)
    assert state_of(world) is DriverState.RELEASED


async def test_driver_that_does_not_answer_is_not_released(world: FakeWorld) -> None:
    world.vram.release_error = "a driver call has not returned for 5 s"
    with pytest.raises(DeviceUnavailable, match="cannot be closed"):
        await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    assert state_of(world) is DriverState.OPEN
    assert (await world.arbiter.acquire(client(1), "llm", AcquireOptions())).loaded


async def test_resume_of_the_host_does_not_end_a_release(world: FakeWorld) -> None:
    await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    world.arbiter.gate.suspending = "the host is suspending"
    world.arbiter.gate.suspending = ""
    await world.housekeeping.refresh_all()
    assert not world.vram.is_open
    assert world.arbiter.gate.held.startswith("the GPU driver is released")


async def loading(world: FakeWorld) -> asyncio.Task[object]:
    """A load of "llm" that takes 20 s."""
    world.routes.consumer("llm").load_sec = 20
    task: asyncio.Task[object] = asyncio.create_task(
        world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=60))
    )
    await world.clock.sleep(1)
    return task


async def test_release_whose_client_leaves_while_a_load_runs_does_not_close_the_driver_later(world: FakeWorld) -> None:
    load = await loading(world)
    options = ReleaseOptions(force=True, timeout_sec=60, bound=True)
    release = asyncio.create_task(world.arbiter.release_gpu(ROOT, options))
    await world.clock.sleep(1)

    await world.arbiter.owner_vanished(ROOT.bus_name)

    with pytest.raises(Busy, match="the release was ended before the driver was closed: its client has left"):
        await release
    await load
    await world.clock.sleep(60)
    assert (state_of(world), world.vram.is_open, world.arbiter.gate.driver_released) == (DriverState.OPEN, True, "")


async def test_driver_that_is_taken_while_the_release_waits_stays_open(world: FakeWorld) -> None:
    load = await loading(world)
    release = asyncio.create_task(world.arbiter.release_gpu(ROOT, ReleaseOptions(force=True, timeout_sec=60)))
    await world.clock.sleep(1)
    assert world.arbiter.take_gpu()
    later = asyncio.create_task(world.arbiter.release_gpu(client(8), ReleaseOptions(force=True, timeout_sec=60)))

    with pytest.raises(Busy, match="as requested"):
        await release
    await later  # the release that was ended has not ended the one after it
    assert state_of(world) is DriverState.RELEASED
    assert world.arbiter.gate.driver_released.startswith("the GPU driver is released by")
    assert world.arbiter.take_gpu()
    await load


async def test_driver_that_is_taken_during_its_last_reading_stays_open(world: FakeWorld) -> None:
    world.vram.read_sec = 3
    release = asyncio.create_task(world.arbiter.release_gpu(ROOT, ReleaseOptions()))
    await world.clock.sleep(1)
    assert world.arbiter.take_gpu()
    with pytest.raises(Busy, match="as requested"):
        await release
    assert state_of(world) is DriverState.OPEN


async def test_reading_that_began_before_the_release_does_not_open_the_driver_after_it(world: FakeWorld) -> None:
    open_sec = 5

    async def read_late(only: Devices = ()) -> Reading:
        """Like a source that looks for further drivers first, and opens its own driver then."""
        await world.clock.sleep(open_sec)
        return await FakeVram.read(world.vram, only)

    world.vram.read = read_late  # type: ignore[method-assign]
    reading = asyncio.create_task(world.arbiter.state.sample())
    await world.clock.sleep(1)
    open_sec = 0

    await world.arbiter.release_gpu(ROOT, ReleaseOptions())
    await reading
    assert (state_of(world), world.vram.is_open) == (DriverState.RELEASED, False)


async def test_reading_that_began_before_a_rest_does_not_open_the_driver_after_it(world: FakeWorld) -> None:
    world.settings = replace(world.settings, consumers={})
    await world.arbiter.reload()
    use, open_sec = world.arbiter.driver_use, 5.0
    await world.clock.sleep(world.settings.gpu.idle_release_sec + 1)

    async def read_late(only: Devices = ()) -> Reading:
        await world.clock.sleep(open_sec)
        return await FakeVram.read(world.vram, only)

    world.vram.read = read_late  # type: ignore[method-assign]
    reading = asyncio.create_task(world.arbiter.state.sample())
    await world.clock.sleep(1)
    assert not await use.sample()
    await reading
    assert (state_of(world), world.vram.is_open) == (DriverState.RESTING, False)
