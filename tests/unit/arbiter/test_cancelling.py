"""Waiting requests are cancelled by their ids, and the status has what a screen needs for that."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.errors import Cancelled, NoSuchRequest
from gpumand.domain.lease import Owner
from gpumand.domain.request import AcquireOptions
from gpumand.domain.status import MAX_PROCESSES
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, hold_foreign_memory, residency, routed
from tests.unit.arbiter.reservation_setup import TOTAL_MIB, two_consumers, vram

ADMIN = Owner(":1.99", 0, user="root")


async def two_that_wait() -> tuple[FakeWorld, list[asyncio.Task[object]]]:
    """The consumer a is leased; a request for b, which does not fit beside it, and one for a reservation wait."""
    world = FakeWorld([routed("a", 20000), routed("b", 10000)])
    world.vram.read_sec = READ_SEC
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    caller = replace(client(2), user="alice", program="render")
    waiting: list[asyncio.Task[object]] = [
        asyncio.create_task(world.arbiter.acquire(caller, "b", AcquireOptions(timeout_sec=600))),
        asyncio.create_task(world.arbiter.acquire(client(3), "", vram(9000, timeout_sec=600))),
    ]
    await world.clock.sleep(2.0)
    return world, waiting


async def test_cancelled_request_gets_an_error_and_leaves_the_queue() -> None:
    world, (waiting, other) = await two_that_wait()
    first, second = world.arbiter.status().queue
    assert (first.consumer, first.owner and first.owner.user, first.owner and first.owner.program) == (
        "b",
        "alice",
        "render",
    )
    assert world.arbiter.request_owner(first.id).uid == first.owner_uid
    assert len({first.id, second.id}) == 2

    world.arbiter.cancel(first.id, ADMIN)

    with pytest.raises(Cancelled, match="cancelled by user root after 2 s of waiting for b"):
        await waiting
    assert [one.id for one in world.arbiter.status().queue] == [second.id]
    world.arbiter.cancel(second.id, client(3))
    with pytest.raises(Cancelled, match=r"cancelled by uid \d+ after 2 s of waiting for a reservation"):
        await other
    assert world.arbiter.status().queue == ()


async def test_cancelling_a_request_that_ended_is_refused() -> None:
    world, (waiting, other) = await two_that_wait()
    request = world.arbiter.status().queue[0].id
    waiting.cancel()
    await asyncio.wait([waiting])
    for unknown in (request, "", "zz"):
        with pytest.raises(NoSuchRequest):
            world.arbiter.cancel(unknown, ADMIN)
        with pytest.raises(NoSuchRequest):
            world.arbiter.request_owner(unknown)
    other.cancel()


async def test_request_behind_a_cancelled_one_is_served_at_once() -> None:
    world = FakeWorld([routed("a", 10000), routed("b", 20000)])
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    first = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)
    second = asyncio.create_task(world.arbiter.acquire(client(3), "a", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)
    queue = world.arbiter.status().queue
    assert queue[0].consumer == "b"
    world.arbiter.cancel(queue[0].id, ADMIN)
    for lease in tuple(world.arbiter.state.ledger.leases):
        await world.arbiter.release(lease)
    await world.clock.sleep(5.0)
    assert second.done()
    with pytest.raises(Cancelled):
        await first


async def test_request_that_is_cancelled_during_its_load_gets_no_lease_and_the_load_ends_by_itself() -> None:
    world = FakeWorld([routed("a", 10000)])
    await world.start()
    world.routes.consumer("a").load_sec = 60.0
    loading = asyncio.create_task(world.arbiter.acquire(client(1), "a", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(3.0)
    (request,) = world.arbiter.status().queue
    world.arbiter.cancel(request.id, ADMIN)
    with pytest.raises(Cancelled):
        await loading
    await world.clock.sleep(100.0)
    assert world.arbiter.status().leases == ()
    assert world.arbiter.state.ledger.jobs == {}
    assert residency(world, "a") == "resident"


async def test_load_that_has_not_begun_is_left_out_when_its_request_is_cancelled() -> None:
    world = FakeWorld([routed("a", 20000), routed("b", 10000)])
    await world.start()
    await world.arbiter.load("a", "", 60)
    world.routes.consumer("a").unload_sec = 20.0
    waiting = asyncio.create_task(world.arbiter.acquire(client(1), "b", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(5.0)
    assert residency(world, "a") == "unloading"
    world.arbiter.cancel(world.arbiter.status().queue[0].id, ADMIN)
    with pytest.raises(Cancelled):
        await waiting
    await world.clock.sleep(100.0)
    assert (residency(world, "b"), world.arbiter.state.ledger.jobs) == ("unloaded", {})


async def test_nothing_is_evicted_for_a_request_that_is_cancelled_during_the_reading_before() -> None:
    world = FakeWorld([routed("a", 20000), routed("b", 10000)])
    await world.start()
    await world.arbiter.load("a", "", 60)
    world.vram.read_sec = 5.0
    waiting = asyncio.create_task(world.arbiter.acquire(client(1), "b", AcquireOptions(timeout_sec=600)))
    while not world.arbiter.state.ledger.jobs:
        await world.clock.sleep(0.1)
    await world.clock.sleep(1.0)
    world.arbiter.cancel(world.arbiter.status().queue[0].id, ADMIN)
    with pytest.raises(Cancelled):
        await waiting
    await world.clock.sleep(100.0)
    assert (residency(world, "a"), world.arbiter.state.ledger.jobs) == ("resident", {})


async def test_status_lists_the_processes_of_consumers_and_reservations() -> None:
    world = two_consumers()
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    grant = await world.arbiter.acquire(client(2), "", vram(4000))
    world.vram.hold(client(2).pid, 3000, name="train")
    hold_foreign_memory(world, 500)
    await world.arbiter.state.sample()
    held = world.arbiter.status().devices[0].processes
    assert [(one.process.used_mib, one.consumers, one.lease) for one in held] == [
        (10000, ("a",), ""),
        (3000, (), grant.lease.id),
    ]


async def test_only_the_largest_processes_are_listed() -> None:
    world = FakeWorld([routed("a", 1000)])
    await world.start()
    for pid in range(200):
        world.vram.hold(5000 + pid, 1 + pid % 100, name="worker", consumer="a")
    assert TOTAL_MIB > 200 * 100
    await world.arbiter.state.sample()
    held = world.arbiter.status().devices[0].processes
    assert len(held) == MAX_PROCESSES
    assert held[0].process.used_mib == 100
