"""Work sent directly to a server without a busy check is not cut off: clients are connected, and it computes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.errors import Busy, GpumandError
from gpumand.domain.request import AcquireOptions
from gpumand.testing.clock import FakeClock
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import reports, residency, routed
from tests.unit.arbiter.test_busy import housekeeping

STOP_ONLY = (EvictionMethod.UNIT_STOP,)
GRACE_SEC = 60.0
UNLOAD = routed("any", 1).unload


class Processors:
    """Every process uses this share of a processor."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.share = clock, 0.0

    async def used_sec(self, pids: Iterable[int]) -> Mapping[int, float]:
        return dict.fromkeys(pids, self.share * self.clock.monotonic())


async def host(*specs: ConsumerSpec, share: float, clients: int, **old: object) -> tuple[FakeWorld, Processors]:
    """A host on which "old", which can only be stopped, serves clients directly."""
    clock = FakeClock(autojump=True)
    processors = Processors(clock)
    first = routed("old", 9000, unit="old.service", **{"evict": STOP_ONLY, "unload": None, **old})
    settings = SchedulerSettings(concurrent_leases=0)
    world = FakeWorld([first, *specs], scheduler=settings, clock=clock, cpu_times=processors)
    world.units.become("old.service", UnitActivity.ACTIVE)
    server = world.routes.place("old", 9000)
    world.units.units["old.service"].stopped = lambda: world.routes.die("old")
    await world.start()
    server.jobs, processors.share = clients, share
    return world, processors


async def test_another_victim_is_taken_while_clients_are_connected_and_its_processes_compute() -> None:
    world, _ = await host(routed("recent", 9000), routed("llm", 9000), share=1.0, clients=1)
    lease = (await world.arbiter.acquire(client(7), "recent", AcquireOptions())).lease
    await world.arbiter.release(lease.id)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("recent",)
    assert residency(world, "old") == "resident"
    assert world.arbiter.consumer_status("old").busy is True


@pytest.mark.parametrize(("share", "clients"), [(0.02, 3), (1.0, 0)], ids=["idle connections", "no clients"])
async def test_idle_connections_alone_or_processor_time_alone_delay_nothing(share: float, clients: int) -> None:
    world, _ = await host(routed("llm", 18000), share=share, clients=clients)
    began = world.clock.monotonic()

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("old",)
    assert world.clock.monotonic() - began < 10.0


async def test_request_that_needs_it_waits_with_the_reason_and_is_served_when_the_work_ends() -> None:
    world, processors = await host(routed("llm", 18000), share=1.0, clients=2)
    async with housekeeping(world):
        acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=50)))
        await world.clock.sleep(20.0)
        (waiting,) = world.arbiter.status().queue
        assert "old is busy (2 client connections) and will be evicted in" in waiting.waiting_for
        assert reports(world) == []

        processors.share, ended = 0.01, world.clock.monotonic()  # its clients keep their connections open

        assert (await acquiring).evicted == ("old",)
        assert world.clock.monotonic() - ended < 10.0


async def test_work_that_does_not_end_is_waited_for_during_one_grace_period() -> None:
    world, _ = await host(routed("llm", 18000), share=1.0, clients=1)
    began = world.clock.monotonic()
    async with housekeeping(world):
        grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=200))

    assert grant.evicted == ("old",)
    assert GRACE_SEC <= world.clock.monotonic() - began <= GRACE_SEC + 15.0


async def test_manual_eviction_is_refused_unless_it_is_forced() -> None:
    world, _ = await host(share=1.0, clients=1)
    with pytest.raises(Busy, match=r"old is busy \(1 client connection\). Use the option 'force'"):
        await world.arbiter.evict("old", False, 20.0)
    assert world.units.units["old.service"].activity is UnitActivity.ACTIVE

    assert (await world.arbiter.evict("old", True, 20.0)).method == "unit-stop"


async def test_idle_timeout_does_not_stop_a_server_at_work() -> None:
    world, processors = await host(share=1.0, clients=1, idle_timeout_sec=30.0)
    async with housekeeping(world):
        await world.clock.sleep(90.0)
        assert world.units.units["old.service"].activity is UnitActivity.ACTIVE
        processors.share = 0.0
        await world.clock.sleep(60.0)
        assert world.units.units["old.service"].activity is not UnitActivity.ACTIVE


async def test_unload_route_that_would_cut_work_off_is_not_called() -> None:
    world, _ = await host(
        routed("recent", 9000), routed("llm", 9000), share=1.0, clients=1, evict=(EvictionMethod.HTTP,), unload=UNLOAD
    )
    lease = (await world.arbiter.acquire(client(7), "recent", AcquireOptions())).lease
    await world.arbiter.release(lease.id)

    await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert "old" not in world.routes.called("unload")


async def test_other_server_in_the_unit_that_gets_work_during_an_unload_is_not_stopped_by_the_next_method() -> None:
    both = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
    other = routed("other", 3000, unit="old.service", evict=STOP_ONLY, unload=None)
    world, processors = await host(other, routed("llm", 18000), share=0.0, clients=0, evict=both, unload=UNLOAD)
    lease = (await world.arbiter.acquire(client(7), "other", AcquireOptions())).lease
    await world.arbiter.release(lease.id)
    world.routes.consumer("old").lies = True
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=30)))
    await world.clock.sleep(5.0)
    assert "old" in world.routes.called("unload")

    world.routes.consumer("other").jobs, processors.share = 1, 1.0

    with pytest.raises(GpumandError):
        await acquiring
    assert world.units.units["old.service"].activity is UnitActivity.ACTIVE
