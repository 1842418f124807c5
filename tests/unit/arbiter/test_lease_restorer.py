"""One load for each loss of a consumer, whatever has happened to its leases in the meantime."""

from __future__ import annotations

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import drop_model, residency, routed

RESTORE = AcquireOptions(restore=True, ttl_sec=86400.0)


async def world_with_llm() -> FakeWorld:
    world = FakeWorld([routed("llm", 13000, load_timeout_sec=60.0)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    return world


async def settle(world: FakeWorld) -> None:
    for _ in range(5):
        await world.clock.sleep(1.0)
        await world.housekeeping.refresh_all()


def loads(world: FakeWorld) -> int:
    return len(world.routes.called("load"))


async def test_loss_under_a_later_lease_is_restored_although_the_last_attempt_failed() -> None:
    world = await world_with_llm()
    first = await world.arbiter.acquire(client(1), "llm", RESTORE)
    world.routes.consumer("llm").load_error = "CUDA error"
    drop_model(world, "llm")
    await settle(world)
    assert (loads(world), residency(world, "llm")) == (2, "failed")
    await world.arbiter.release(first.lease.id)
    world.routes.consumer("llm").load_error = ""
    await world.clock.sleep(600.0)
    await world.arbiter.acquire(client(2), "llm", RESTORE)
    assert loads(world) == 3

    drop_model(world, "llm")
    await settle(world)

    assert (loads(world), residency(world, "llm")) == (4, "resident")


async def test_two_leases_on_one_lost_consumer_cause_one_load() -> None:
    world = await world_with_llm()
    for number in (1, 2):
        await world.arbiter.acquire(client(number), "llm", RESTORE)
    drop_model(world, "llm")
    await settle(world)
    assert loads(world) == 2


async def test_lease_without_the_option_causes_no_load_beside_one_with_it_that_has_ended() -> None:
    world = await world_with_llm()
    ended = await world.arbiter.acquire(client(1), "llm", RESTORE)
    await world.arbiter.acquire(client(2), "llm", AcquireOptions(ttl_sec=86400.0))
    await world.arbiter.release(ended.lease.id)
    drop_model(world, "llm")
    await settle(world)
    assert (loads(world), residency(world, "llm")) == (1, "unloaded")


async def test_loss_while_the_host_suspends_is_restored_afterwards() -> None:
    world = await world_with_llm()
    await world.arbiter.acquire(client(1), "llm", RESTORE)
    gate = world.arbiter.gate
    gate.suspending = "the host is suspending"
    drop_model(world, "llm")
    await settle(world)
    assert loads(world) == 1

    gate.suspending = ""
    world.arbiter.scheduler.step()
    await settle(world)

    assert (loads(world), residency(world, "llm")) == (2, "resident")
