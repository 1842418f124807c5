"""A leased consumer that loses its model or its process: the holder is informed, and on request it is loaded again."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import SchedulerSettings, UnitActivity
from gpumand.domain.errors import InvalidArgs
from gpumand.domain.events import ConsumersChanged, LeaseDegraded, LeaseGranted, LeaseRestored
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.clock import FakeClock
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, drop_model, hold_foreign_memory, kill_consumer, residency, routed

MIB = 13000
RESTORE = AcquireOptions(restore=True, ttl_sec=86400.0)


def world_of(*names: str, store: MemoryStore | None = None, clock: FakeClock | None = None) -> FakeWorld:
    specs = [routed(name, MIB, load_timeout_sec=60.0) for name in names or ("llm",)]
    return FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0), store=store, clock=clock)


async def observe(world: FakeWorld) -> None:
    """Probe and read everything once, as the housekeeping does all the time."""
    await world.housekeeping.refresh_all()


async def settle(world: FakeWorld) -> None:
    """Let background work end, with observations in between."""
    for _ in range(5):
        await world.clock.sleep(1.0)
        await observe(world)


def health_events(world: FakeWorld) -> list[tuple[str, str]]:
    """Name of the event, and the reason, of all announcements about the state of leases."""
    kinds = (LeaseDegraded, LeaseRestored)
    return [(type(event).__name__, event.lease.degraded) for event in world.events if isinstance(event, kinds)]


async def test_the_holder_is_informed_when_the_model_is_lost_and_when_it_is_back() -> None:
    world = world_of()
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    drop_model(world, "llm")
    await observe(world)

    assert health_events(world) == [("LeaseDegraded", "llm has lost its model or its process")]
    assert world.arbiter.lease(grant.lease.id).degraded == "llm has lost its model or its process"
    assert world.arbiter.status().leases[0].degraded

    world.routes.place("llm", MIB)
    await observe(world)

    assert health_events(world)[1:] == [("LeaseRestored", "")]
    assert world.arbiter.lease(grant.lease.id).degraded == ""


async def test_a_lost_process_degrades_every_lease_once_after_the_new_state_is_announced() -> None:
    world = world_of()
    await world.start()
    for number in range(3):
        await world.arbiter.acquire(client(number), "llm", AcquireOptions())
    kill_consumer(world, "llm")
    for _ in range(3):
        await observe(world)

    names = [type(event) for event in world.events]
    assert names.count(LeaseDegraded) == 3
    assert ConsumersChanged in names[: names.index(LeaseDegraded)][-3:]
    assert world.routes.called("load") == ["llm"], "without the option nothing is loaded again"


async def test_a_failed_unit_is_named_in_the_reason() -> None:
    world = FakeWorld([by_unit("voice", 3000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    await world.arbiter.watch_units()
    await world.arbiter.acquire(client(), "voice", AcquireOptions())
    await world.clock.sleep(1.0)
    world.units.become("voice.service", UnitActivity.FAILED, "signal")
    await observe(world)

    (event,) = health_events(world)
    assert event == ("LeaseDegraded", "voice has lost its model or its process: voice.service failed (signal)")


async def test_a_unit_that_restarts_by_itself_degrades_the_lease_until_it_is_back() -> None:
    world = FakeWorld([by_unit("voice", 3000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    await world.arbiter.watch_units()
    await world.arbiter.acquire(client(), "voice", RESTORE)
    await world.clock.sleep(1.0)
    world.units.become("voice.service", UnitActivity.ACTIVATING)
    await world.clock.sleep(1.0)
    world.units.become("voice.service", UnitActivity.ACTIVE)
    await settle(world)

    assert health_events(world) == [
        ("LeaseDegraded", "voice was restarted and is loading again"),
        ("LeaseRestored", ""),
    ]
    assert world.units.calls.count(("start", "voice.service")) == 1, "it started by itself"


async def test_ordinary_loads_and_evictions_degrade_no_lease() -> None:
    world = world_of("llm", "image")
    await world.start()
    first = await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.arbiter.release(first.lease.id)
    await world.arbiter.acquire(client(), "image", AcquireOptions())
    await world.arbiter.evict("image", force=True, timeout_sec=60.0)
    await settle(world)

    assert health_events(world) == []


async def test_a_lost_consumer_is_loaded_again_for_a_lease_that_requested_it() -> None:
    world = world_of()
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", RESTORE)
    drop_model(world, "llm")
    await settle(world)

    assert [name for name, _ in health_events(world)] == ["LeaseDegraded", "LeaseRestored"]
    assert world.routes.called("load") == ["llm", "llm"]
    assert (residency(world, "llm"), world.arbiter.lease(grant.lease.id).degraded) == ("resident", "")


async def test_a_reading_that_fails_for_a_moment_does_not_end_the_restore_of_a_lease() -> None:
    world = world_of()
    await world.start()
    await world.arbiter.acquire(client(), "llm", RESTORE)
    drop_model(world, "llm")
    world.vram.fail_device(0, "gpu-lost: the GPU has fallen off the bus", lost=True)
    for _ in range(20):
        if not health_events(world):
            await world.clock.sleep(0.5)
            await observe(world)
    await world.clock.sleep(0.6)
    assert [name for name, _ in health_events(world)] == ["LeaseDegraded"]
    world.vram.fail_device(0, "")
    await settle(world)

    assert world.routes.called("load") == ["llm", "llm"]
    assert residency(world, "llm") == "resident"


async def test_each_loss_is_followed_by_one_attempt_and_its_failure_is_reported() -> None:
    world = world_of()
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", RESTORE)
    world.routes.consumer("llm").load_error = "CUDA error"
    drop_model(world, "llm")
    for _ in range(10):
        await settle(world)

    assert world.routes.called("load") == ["llm", "llm"]
    assert [name for name, _ in health_events(world)] == ["LeaseDegraded", "LeaseDegraded"]
    assert world.arbiter.lease(grant.lease.id).degraded.startswith("llm failed to load: ")

    world.routes.consumer("llm").load_error = ""
    world.routes.place("llm", MIB)
    await settle(world)
    drop_model(world, "llm")
    await settle(world)
    assert world.routes.called("load") == ["llm", "llm", "llm"], "the next loss is followed by an attempt of its own"


async def test_a_restore_does_not_wait_for_requests_that_wait_for_its_lease() -> None:
    world = world_of("llm", "image")
    await world.start()
    await world.arbiter.acquire(client(), "llm", RESTORE)
    waiting = asyncio.create_task(
        world.arbiter.acquire(client(2), "image", AcquireOptions(timeout_sec=900.0, priority=100))
    )
    await world.clock.sleep(1.0)
    drop_model(world, "llm")
    await settle(world)
    waiting.cancel()

    assert residency(world, "llm") == "resident"


async def test_a_restore_never_takes_memory_that_another_program_holds_now() -> None:
    world = world_of()
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", RESTORE)
    drop_model(world, "llm")
    hold_foreign_memory(world, 20000)
    await settle(world)

    assert world.routes.called("load") == ["llm"]
    degraded = world.arbiter.lease(grant.lease.id).degraded
    assert "it cannot be loaded again: not enough VRAM for llm on device 0" in degraded
    assert health_events(world)[-1] == ("LeaseDegraded", degraded)


async def test_a_lease_that_ended_meanwhile_is_not_restored() -> None:
    world = world_of()
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", RESTORE)
    drop_model(world, "llm")
    observing = asyncio.create_task(observe(world))
    await observing
    await world.arbiter.release(grant.lease.id)
    await settle(world)

    assert len(world.routes.called("load")) <= 2
    assert world.arbiter.status().leases == ()


async def test_a_loss_while_the_daemon_was_away_is_reported_and_restored_after_its_restart() -> None:
    before = world_of()
    await before.start()
    await before.arbiter.acquire(client(), "llm", RESTORE)
    await before.arbiter.stop("restart")
    world = world_of(store=before.store, clock=before.clock)
    await world.start()
    await settle(world)

    assert [name for name, _ in health_events(world)] == ["LeaseDegraded", "LeaseRestored"]
    assert world.routes.called("load") == ["llm"]


async def test_a_model_lost_while_the_lease_is_saved_is_reported_right_after_the_grant() -> None:
    world = world_of()
    world.routes.place("llm", MIB)
    await world.start()
    world.store.stall()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions()))
    await world.clock.sleep(0.1)
    drop_model(world, "llm")
    await observe(world)
    world.store.resume()
    await acquiring

    kinds = (LeaseGranted, LeaseDegraded)
    assert [type(event) for event in world.events if isinstance(event, kinds)] == [LeaseGranted, LeaseDegraded]


async def test_restore_needs_a_consumer() -> None:
    world = world_of()
    await world.start()

    with pytest.raises(InvalidArgs, match="option 'restore' needs a consumer"):
        await world.arbiter.acquire(client(), "", AcquireOptions(vram_mib=1000, restore=True))


async def test_the_lease_of_a_unit_that_is_starting_is_not_degraded_by_its_own_start() -> None:
    world = FakeWorld([by_unit("voice", 3000)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    await world.arbiter.watch_units()
    world.units.become("voice.service", UnitActivity.ACTIVATING)
    await world.clock.sleep(0.1)
    own = client(7, unit="voice.service", invocation_id=f"{world.units.units['voice.service'].invocation:032x}")
    await world.arbiter.acquire(own, "voice", AcquireOptions(lifetime=LeaseLifetime.CONNECTION))
    world.units.become("voice.service", UnitActivity.ACTIVE)
    await settle(world)

    assert health_events(world) == []
