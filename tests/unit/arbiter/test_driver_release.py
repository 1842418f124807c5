"""gpumanctl gpu release: the driver is closed on request, requests wait, and the driver is taken again."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.driver_power import DriverState
from gpumand.domain.driver_release import ReleaseOptions
from gpumand.domain.errors import Busy, DeviceUnavailable, TimedOut
from gpumand.domain.request import AcquireOptions
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
