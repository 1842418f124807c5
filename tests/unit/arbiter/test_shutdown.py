"""Shutdown of the host: refused requests, a cancelled shutdown, and leases that end with the host."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.arbiter.suspend import (
    SHUTTING_DOWN,
)
from gpumand.domain.errors import ShuttingDown
from gpumand.domain.events import LeaseEnded
from gpumand.domain.lease import LeaseEnd
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import (
    routed,
)
from tests.unit.arbiter.suspend_setup import LONG, NOW, SuspendScenario


async def test_shutdown_refuses_waiting_and_new_requests() -> None:
    scenario = SuspendScenario(routed("a", 20000), routed("b", 20000))
    async with scenario.running() as world:
        lease = (await world.arbiter.acquire(client(), "a", LONG)).lease
        waiting = scenario.ask("b")
        await world.clock.advance(1)
        scenario.watch.prepare_for_shutdown(True)
        for attempt in (waiting, world.arbiter.acquire(client(), "a", NOW), world.arbiter.load("b", "", 5)):
            with pytest.raises(ShuttingDown, match=SHUTTING_DOWN):
                await attempt
        assert world.arbiter.lease(lease.id), "it ends with the daemon and not before"
        await world.arbiter.release(lease.id)


async def test_shutdown_refuses_a_waiting_manual_eviction() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    scenario.world.routes.consumer("a").load_sec = 30.0
    async with scenario.running() as world:
        loading = scenario.ask("a")
        await world.clock.advance(1)
        evicting = asyncio.create_task(world.arbiter.evict("a", True, 60))
        await world.clock.advance(1)
        scenario.watch.prepare_for_shutdown(True)
        for attempt in (loading, evicting):
            with pytest.raises(ShuttingDown):
                await attempt


async def test_cancelled_shutdown_allows_grants_again() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.watch.prepare_for_shutdown(True)
        scenario.watch.prepare_for_shutdown(False)
        assert (await world.arbiter.acquire(client(), "a", LONG)).loaded


async def test_cancelled_shutdown_after_a_stop_allows_nothing() -> None:
    scenario = SuspendScenario(routed("a", 3000))
    async with scenario.running() as world:
        scenario.watch.prepare_for_shutdown(True)
        await world.arbiter.stop("gpumand is stopping")
        scenario.watch.prepare_for_shutdown(False)
        with pytest.raises(ShuttingDown, match="gpumand is stopping"):
            await world.arbiter.acquire(client(), "a", LONG)


@pytest.mark.parametrize("leases_end", [True, False])
async def test_leases_end_with_the_host_and_survive_a_restart(leases_end: bool) -> None:
    store = MemoryStore()
    scenario = SuspendScenario(routed("a", 3000), store=store)
    async with scenario.running() as world:
        lease = (await world.arbiter.acquire(client(), "a", LONG)).lease
        await world.arbiter.stop("gpumand is stopping", leases_end=leases_end)
        ended = [(event.lease.id, event.reason) for event in world.events if isinstance(event, LeaseEnded)]
        assert ended == ([(lease.id, LeaseEnd.SHUTDOWN)] if leases_end else [])
    assert [kept.id for kept in await store.read_leases()] == ([] if leases_end else [lease.id])
