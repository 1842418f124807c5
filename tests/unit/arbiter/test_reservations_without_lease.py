"""Reservations without a lease end by evidence, and never make a request with the default wait fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gpumand.domain.consumer import BusyRoute, ConsumerSpec, EvictionMethod, UnitActivity
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, lazy, reserved, residency, routed

COMFY_MIB, LLM_MIB = 13312, 14000
QUEUE = BusyRoute("/queue", ("/running",))
CONTAINER = "docker-0123456789abcdef.scope"


@asynccontextmanager
async def running(*specs: ConsumerSpec) -> AsyncIterator[FakeWorld]:
    """A world that keeps house, in which nothing is loaded."""
    world = FakeWorld(specs)
    await world.start()
    task = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1.0)
    yield world
    task.cancel()


async def use(world: FakeWorld, name: str, work: float = 0.0) -> None:
    """Lease a consumer for a while and release it."""
    grant = await world.arbiter.acquire(client(1), name, AcquireOptions())
    if work:
        await world.routes.work(world.settings.consumers[name], work)
    await world.arbiter.release(grant.lease.id)


def keep_memory_in_container(world: FakeWorld, name: str, mib: int, pid: int = 77) -> None:
    """Start and stop a unit that is only the ``docker run`` of a container, which holds the memory."""
    unit = world.units.units[f"{name}.service"]
    unit.started = lambda: world.vram.hold(pid, mib, unit=CONTAINER, name="python")
    unit.stopped = lambda: world.vram.release(pid)


@pytest.mark.parametrize("work", [0.0, 3.0])
@pytest.mark.parametrize("busy", [QUEUE, None])
async def test_next_client_is_served_after_the_lease_of_a_service_known_by_its_url(
    busy: BusyRoute | None, work: float
) -> None:
    async with running(lazy("comfy", COMFY_MIB, busy=busy), routed("llm", LLM_MIB)) as world:
        world.vram.attributable.discard("comfy")
        await use(world, "comfy", work)

        grant = await world.arbiter.acquire(client(2), "llm", AcquireOptions())

        assert grant.waited_usec / 1e6 < 6.0
        assert world.routes.consumer("llm").ooms == 0


@pytest.mark.parametrize("is_lazy", [True, False])
async def test_consumers_in_containers_swap_without_waiting_for_reservations(is_lazy: bool) -> None:
    first, second = by_unit("dk", 9000), routed("llm", LLM_MIB + 2000)
    if is_lazy:
        first = lazy("dk", 9000, unit="dk.service", evict=(EvictionMethod.UNIT_STOP,))
    async with running(first, second) as world:
        keep_memory_in_container(world, "dk", 9000)
        for _ in range(3):
            await use(world, "dk")
            began = world.clock.monotonic()
            await use(world, "llm")
            assert world.clock.monotonic() - began < 6.0
        assert world.routes.consumer("llm").ooms == 0
        assert world.units.calls.count(("stop", "dk.service")) == 3


async def test_memory_of_a_container_is_unknown_and_not_zero() -> None:
    comfy = lazy("comfy", COMFY_MIB, unit="comfy.service", evict=(EvictionMethod.HTTP, EvictionMethod.UNIT_STOP))
    async with running(comfy) as world:
        lease = (await world.arbiter.acquire(client(1), "comfy", AcquireOptions())).lease
        world.vram.hold(77, 13000, unit=CONTAINER, name="python")
        await world.clock.sleep(3.0)
        await world.arbiter.release(lease.id)
        await world.clock.sleep(60.0)

        assert (residency(world, "comfy"), reserved(world)) == ("resident", {})
        assert world.arbiter.consumer_status("comfy").used_mib is None


async def test_container_of_another_service_is_not_taken_for_the_consumer() -> None:
    comfy = lazy("comfy", COMFY_MIB, unit="comfy.service", evict=(EvictionMethod.UNIT_STOP,))
    async with running(comfy) as world:
        world.vram.hold(77, 9000, unit=CONTAINER, name="python")  # it ran before the lease
        await world.clock.sleep(3.0)
        await world.arbiter.acquire(client(1), "comfy", AcquireOptions())
        world.vram.hold(78, 9000, unit="session-1.scope", name="notebook")
        await world.clock.sleep(3.0)

        assert reserved(world) == {"comfy": COMFY_MIB}, "neither of them is the consumer's memory"


async def test_reservation_ends_when_growth_has_rested() -> None:
    comfy = lazy("comfy", COMFY_MIB, pinned=True)
    async with running(comfy, routed("llm", 9000)) as world:
        lease = (await world.arbiter.acquire(client(1), "comfy", AcquireOptions())).lease
        await world.arbiter.release(lease.id)
        for mib in (2000, 4000, 6000):
            await world.clock.sleep(3.0)
            world.routes._hold(world.routes.consumer("comfy"), mib)
        await world.clock.sleep(3.0)
        assert reserved(world) == {"comfy": COMFY_MIB - 6000}, "it has grown a moment ago"

        grant = await world.arbiter.acquire(client(2), "llm", AcquireOptions())

        assert grant.evicted == ()
        assert 1.0 < grant.waited_usec / 1e6 < 8.0


async def test_idle_answer_ends_the_reservation_without_an_eviction() -> None:
    async with running(lazy("comfy", COMFY_MIB, busy=QUEUE), routed("llm", LLM_MIB)) as world:
        await use(world, "comfy")

        grant = await world.arbiter.acquire(client(2), "llm", AcquireOptions())

        assert grant.evicted == ()
        assert world.routes.called("unload") == []


async def test_busy_answer_protects_a_load_whose_client_has_gone() -> None:
    async with running(lazy("comfy", COMFY_MIB, busy=QUEUE), routed("llm", LLM_MIB)) as world:
        await use(world, "comfy")
        world.routes.consumer("comfy").jobs = 1
        acquiring = asyncio.create_task(world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=60)))
        await world.clock.sleep(15.0)
        assert not acquiring.done()
        assert world.routes.called("unload") == []
        world.routes.consumer("comfy").jobs = 0

        assert (await acquiring).loaded


async def test_reservation_under_a_lease_does_not_end() -> None:
    async with running(lazy("comfy", COMFY_MIB, busy=QUEUE), routed("llm", LLM_MIB)) as world:
        await world.arbiter.acquire(client(1), "comfy", AcquireOptions())
        await world.clock.sleep(60.0)

        plan = await world.arbiter.plan(client(2), "llm", AcquireOptions())

        assert (str(plan.verdict), reserved(world)) == ("wait", {"comfy": COMFY_MIB})


async def test_memory_of_a_started_unit_stays_reserved_while_no_request_needs_it() -> None:
    async with running(by_unit("llm", LLM_MIB), routed("voice", 2000)) as world:
        world.units.become("llm.service", UnitActivity.ACTIVE)
        await world.clock.sleep(8.0)

        assert (await world.arbiter.acquire(client(2), "voice", AcquireOptions())).evicted == ()
        assert reserved(world) == {"llm": LLM_MIB}


async def test_resident_service_that_loads_on_demand_gets_the_room_of_a_reservation_without_lease() -> None:
    async with running(lazy("comfy", COMFY_MIB), lazy("other", COMFY_MIB)) as world:
        first = await world.arbiter.acquire(client(1), "comfy", AcquireOptions())
        await world.arbiter.release(first.lease.id)

        grant = await world.arbiter.acquire(client(2), "other", AcquireOptions())
        await world.routes.work(world.settings.consumers["other"])

        assert grant.waited_usec / 1e6 < 3.0
        assert world.routes.consumer("other").ooms == 0
