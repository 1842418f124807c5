"""Waits for results: clients that leave, time limits, and leases that end before their client is notified."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.arbiter.request_waits import IMMEDIATE_LIMIT_SEC
from gpumand.domain.consumer import HealthRoute
from gpumand.domain.errors import Busy, GpumandError, NoSuchLease, TimedOut
from gpumand.domain.events import LeaseEnded, LeaseGranted
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.domain.request_limits import MAX_WAIT_SEC
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import lazy, routed

CONNECTION = AcquireOptions(LeaseLifetime.CONNECTION, timeout_sec=600)


async def make_world() -> FakeWorld:
    """A device on which a, which is resident, and b exclude each other."""
    world = FakeWorld([routed("a", 14000), routed("b", 14000)])
    world.routes.place("a", 14000)
    await world.start()
    return world


def ask(world: FakeWorld, number: int, name: str, options: AcquireOptions = CONNECTION) -> asyncio.Task[Grant]:
    return asyncio.create_task(world.arbiter.acquire(client(number), name, options))


def queue(world: FakeWorld) -> list[str]:
    return [one.consumer for one in world.arbiter.status().queue]


async def test_requests_of_a_client_that_leaves_are_dropped_and_those_of_others_served() -> None:
    world = await make_world()
    holder = await ask(world, 1, "a")
    leaving, staying = ask(world, 2, "b"), ask(world, 3, "a", replace(CONNECTION, exclusive=True))
    await world.clock.settle()
    assert queue(world) == ["b", "a"]

    await world.arbiter.owner_vanished(":1.2")
    assert queue(world) == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await world.arbiter.release(holder.lease.id)
    assert (await staying).lease.consumer == "a"
    assert world.routes.called("unload") == []


async def test_request_that_is_cancelled_leaves_its_place_to_the_next_one() -> None:
    world = await make_world()
    holder = await ask(world, 1, "a")
    first, second = ask(world, 2, "b"), ask(world, 3, "b")
    await world.clock.settle()
    first.cancel()
    await world.clock.settle()
    assert len(queue(world)) == 1
    await world.arbiter.release(holder.lease.id)
    assert (await second).lease.owner.bus_name == ":1.3"


async def test_request_that_is_cancelled_while_its_lease_is_written_leaves_no_lease() -> None:
    world = await make_world()
    world.store.stall()
    asking = ask(world, 1, "a")
    await world.clock.settle()
    asking.cancel()
    await world.clock.settle()
    world.store.resume()
    await world.clock.settle()
    assert (world.arbiter.status().leases, world.store.leases) == ((), {})
    announced = [one for one in world.events if isinstance(one, LeaseGranted | LeaseEnded)]
    assert announced == [], "an unsaved lease is not announced"


async def test_lease_that_ends_while_it_is_written_is_not_returned() -> None:
    world = await make_world()
    world.store.stall()
    asking = ask(world, 1, "a")
    await world.clock.settle()
    (lease,) = world.arbiter.status().leases
    ending = asyncio.create_task(world.arbiter.release(lease.id))
    await world.clock.settle()
    world.store.resume()
    with pytest.raises(NoSuchLease):
        await asking
    await ending
    assert world.store.leases == {}


@pytest.mark.parametrize(("timeout_sec", "error"), [(0.0, Busy), (30.0, TimedOut)])
async def test_request_ends_with_its_time_limit_and_leaves_the_queue(
    timeout_sec: float, error: type[GpumandError]
) -> None:
    world = await make_world()
    await ask(world, 1, "a")
    began = world.clock.monotonic()
    with pytest.raises(error):
        await ask(world, 2, "b", replace(CONNECTION, timeout_sec=timeout_sec))
    assert world.clock.monotonic() - began == pytest.approx(timeout_sec, abs=0.1)
    assert queue(world) == []


async def test_time_limit_counts_from_the_arrival_of_the_request() -> None:
    world = await make_world()
    await ask(world, 1, "a")
    world.vram.read_sec = 4.0  # the first decision waits for a reading
    began = world.clock.monotonic()
    with pytest.raises(TimedOut):
        await ask(world, 2, "b", replace(CONNECTION, timeout_sec=10.0))
    assert world.clock.monotonic() - began == pytest.approx(10.0, abs=0.1)


async def test_endless_time_limit_is_cut_to_the_longest_wait() -> None:
    world = await make_world()
    await ask(world, 1, "a")
    began = world.clock.monotonic()
    with pytest.raises(TimedOut):
        await ask(world, 2, "b", replace(CONNECTION, timeout_sec=float("inf")))
    assert world.clock.monotonic() - began == pytest.approx(MAX_WAIT_SEC, abs=1.0)


async def test_request_without_a_wait_is_decided_within_a_limit_while_a_health_check_hangs() -> None:
    world = FakeWorld([lazy("a", 4000, health=HealthRoute("/health", timeout_sec=300.0))])
    await world.start()
    world.routes.consumer("a").hangs = True
    began = world.clock.monotonic()
    with pytest.raises(TimedOut):
        await ask(world, 1, "a", replace(CONNECTION, timeout_sec=0.0))
    assert world.clock.monotonic() - began == pytest.approx(IMMEDIATE_LIMIT_SEC, abs=0.1)
    assert queue(world) == []


async def test_request_of_a_program_that_runs_under_the_lease_in_its_way_is_refused_without_waiting() -> None:
    world = await make_world()
    await ask(world, 1, "a")
    world.vram.ancestors_of = {client(2).pid: (client(1).pid,)}
    began = world.clock.monotonic()
    with pytest.raises(GpumandError, match="lease"):
        await ask(world, 2, "b")
    assert world.clock.monotonic() - began < 1.0
    assert queue(world) == []
