"""Every wait names the leases that it waits for: consumer, id, owner, reason and end, and the command to end them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings, UnitActivity
from gpumand.domain.errors import Busy, TimedOut
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

ALICE = replace(client(1), user="alice", program="python3")


def world_of(*names: str, leases: int = 1, mib: int = 13000) -> FakeWorld:
    return FakeWorld([routed(name, mib) for name in names], scheduler=SchedulerSettings(concurrent_leases=leases))


async def lease_on(world: FakeWorld, consumer: str, owner: Owner = ALICE, **options: object) -> str:
    """Grant a lease and return the short form of its id."""
    grant = await world.arbiter.acquire(owner, consumer, AcquireOptions(**options))  # type: ignore[arg-type]
    return grant.lease.id[:6]


async def timed_out(world: FakeWorld, consumer: str, owner: Owner | None = None) -> str:
    with pytest.raises(TimedOut) as refusal:
        await world.arbiter.acquire(owner or client(9), consumer, AcquireOptions(timeout_sec=20))
    return refusal.value.message


async def test_a_timeout_names_the_lease_its_owner_reason_and_end_and_what_to_do() -> None:
    world = world_of("llm", "comfyui")
    await world.start()
    lease = await lease_on(world, "llm", ttl_sec=860.0, reason="nightly render")

    assert await timed_out(world, "comfyui") == (
        f"timed out after 20 s waiting for comfyui: device 0 is leased to llm (lease {lease}, user alice, python3, "
        "'nightly render', ends in 14 min). Wait longer with option 'timeout_usec', "
        f"or release it: gpumanctl release {lease}."
    )


@pytest.mark.parametrize(("leases", "expected"), [(1, "device 0 is leased to llm ("), (0, "is reserved for llm (")])
async def test_the_queue_and_a_plan_name_the_lease_like_the_timeout(leases: int, expected: str) -> None:
    world = world_of("llm", "comfyui", leases=leases)
    await world.start()
    lease = await lease_on(world, "llm")
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "comfyui", AcquireOptions(timeout_sec=100)))
    await world.clock.sleep(1.0)

    (queued,) = world.arbiter.status().queue
    plan = await world.arbiter.plan(client(3), "comfyui", AcquireOptions())
    waiting.cancel()

    for text in (queued.waiting_for, plan.message):
        assert expected in text
        assert f"(lease {lease}, user alice, python3, ends in 15 min)" in text
        assert text.endswith(f". Release it: gpumanctl release {lease}.")


async def test_a_request_behind_another_names_the_lease_that_both_wait_for() -> None:
    world = world_of("llm", "comfyui", "tts", mib=3000)
    await world.start()
    lease = await lease_on(world, "llm")
    first = asyncio.create_task(world.arbiter.acquire(client(2), "comfyui", AcquireOptions(timeout_sec=100)))
    await world.clock.sleep(1.0)

    message = await timed_out(world, "tts")
    first.cancel()

    assert f"device 0 is leased to llm (lease {lease}, user alice" in message
    assert message.endswith(f"or release it: gpumanctl release {lease}.")


async def test_at_most_three_leases_are_described() -> None:
    world = world_of("llm", "comfyui", leases=0)
    await world.start()
    ids = [await lease_on(world, "llm", client(number)) for number in range(1, 7)]

    message = await timed_out(world, "comfyui")

    assert [lease in message for lease in ids] == [True, True, True, False, False, False]
    assert message.count("ends in") == 3
    assert "and 3 more leases" in message
    assert message.endswith("gpumanctl release " + ids[2] + "; the others are listed by: gpumanctl status.")


async def test_leases_without_a_time_limit_name_the_event_that_ends_them() -> None:
    world = world_of("llm", "comfyui", leases=0)
    await world.start()
    await lease_on(world, "llm", lifetime=LeaseLifetime.CONNECTION)
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    unit = client(2, unit="job.service", invocation_id=f"{1:032x}")
    await lease_on(world, "llm", unit, lifetime=LeaseLifetime.UNIT)

    message = await timed_out(world, "comfyui")

    assert "user alice, python3, until its client disconnects; lease" in message
    assert "uid 1000, job.service, until job.service stops)" in message


async def test_a_reason_or_a_program_cannot_end_its_description_and_add_advice() -> None:
    world = world_of("llm", "comfyui")
    await world.start()
    eve = replace(client(1), user="eve", program="x). Run: sh")
    lease = await lease_on(world, "llm", eve, reason="a'). Release it: rm -rf / " + "x" * 1000)

    message = await timed_out(world, "comfyui")

    assert f"(lease {lease}, user eve, x_. Run_ sh, 'a\u2019). Release it: rm -rf / " in message
    assert message.count("'") == 4, "two around the reason, two around the option"
    assert len(message) < 400


async def test_lease_ids_that_begin_alike_are_shown_longer() -> None:
    world = world_of("llm", "comfyui", leases=0)
    ids = iter(["38a6401111", "38a6402222"])
    world.arbiter.leases._new_id = lambda: next(ids)
    await world.start()
    await lease_on(world, "llm")
    await lease_on(world, "llm", client(2))

    message = await timed_out(world, "comfyui")

    assert "lease 38a6401, user alice" in message
    assert "gpumanctl release 38a6401; gpumanctl release 38a6402." in message


async def test_a_reservation_in_the_way_is_described_by_its_owner_and_program() -> None:
    world = world_of("llm", leases=0)
    await world.start()
    options = AcquireOptions(vram_mib=20000, reason="training")
    lease = (await world.arbiter.acquire(ALICE, "", options)).lease.id[:6]

    message = await timed_out(world, "llm")

    assert f"reserved for reservation {lease} (user alice, python3, 'training', ends in 15 min)." in message
    assert message.endswith(f"gpumanctl release {lease}.")


async def test_a_refused_eviction_names_the_lease() -> None:
    world = world_of("llm")
    await world.start()
    lease = await lease_on(world, "llm", reason="nightly render")

    with pytest.raises(Busy) as refusal:
        await world.arbiter.evict("llm", force=False, timeout_sec=0)

    assert refusal.value.message == (
        f"llm is leased (lease {lease}, user alice, python3, 'nightly render', ends in 15 min). "
        f"Use the option 'force' to revoke its leases, or release it: gpumanctl release {lease}."
    )


async def test_an_owner_whose_name_was_found_late_is_named() -> None:
    world = world_of("llm", "comfyui")
    world.owners.users[1000], world.owners.programs[5001] = "alice", "python3"
    await world.start()
    await lease_on(world, "llm", client(1))

    assert "user alice, python3" in await timed_out(world, "comfyui")


async def test_a_lease_restored_after_a_restart_names_its_owner_again() -> None:
    before = world_of("llm", "comfyui")
    await before.start()
    lease = await lease_on(before, "llm", client(1), reason="nightly render")
    world = FakeWorld(
        [routed(name, 13000) for name in ("llm", "comfyui")],
        store=before.store,
        clock=before.clock,
        scheduler=SchedulerSettings(concurrent_leases=1),
    )
    world.owners.users[1000], world.owners.programs[5001] = "alice", "python3"
    await world.start()

    message = await timed_out(world, "comfyui")

    assert f"leased to llm (lease {lease}, user alice, python3, 'nightly render', ends in 15 min)" in message


async def test_the_description_follows_a_renewal() -> None:
    world = world_of("llm", "comfyui")
    await world.start()
    grant = await world.arbiter.acquire(ALICE, "llm", AcquireOptions())
    await world.arbiter.renew(grant.lease.id, 7200.0)

    assert "ends in 2 h)" in await timed_out(world, "comfyui")
