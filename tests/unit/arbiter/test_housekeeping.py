"""The housekeeping loops in virtual time."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route, UnitActivity
from gpumand.domain.events import LeaseEnded
from gpumand.domain.lease import LeaseEnd, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client


def probed(name: str, timeout_sec: float) -> ConsumerSpec:
    health = HealthRoute("/health", loaded="/loaded", timeout_sec=timeout_sec)
    routes = {"load": Route("/load"), "unload": Route("/unload"), "health": health}
    return ConsumerSpec(name, 1000, url=f"http://127.0.0.1/{name}", evict=(EvictionMethod.HTTP,), **routes)  # type: ignore[arg-type]


async def test_hanging_consumer_does_not_delay_other_health_checks() -> None:
    world = FakeWorld([probed("hung", 600.0), probed("well", 5.0)])
    await world.start()
    world.routes.consumer("hung").hangs = True
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.advance(60.0)
    housekeeping.cancel()
    probes = world.routes.called("probe_health")
    assert probes.count("well") == 1 + 12, "one at the start, then every 5 s"
    assert probes.count("hung") == 2, "the hanging consumer gets no second check meanwhile"


async def test_lease_ends_when_a_query_finds_its_unit_stopped() -> None:
    world = FakeWorld([probed("a", 5.0)])
    world.routes.place("a", 1000)
    world.units.units["job.service"] = FakeUnit("job.service", UnitActivity.ACTIVE, invocation=1)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    job = client(unit="job.service", invocation_id=f"{1:032x}")
    await world.arbiter.acquire(job, "a", AcquireOptions(lifetime=LeaseLifetime.UNIT))
    await world.clock.advance(1.0)
    world.units.units["job.service"].activity = UnitActivity.INACTIVE  # and its signal was lost
    await world.clock.advance(120.0)
    housekeeping.cancel()
    assert world.arbiter.status().leases == ()
    assert [event.reason for event in world.events if isinstance(event, LeaseEnded)] == [LeaseEnd.UNIT_STOPPED]


async def test_running_loops_are_never_late_by_much() -> None:
    world = FakeWorld([probed("well", 5.0)])
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.advance(600.0)
    assert all(late_sec < 1.0 for late_sec in world.housekeeping.overdue_sec().values())
    housekeeping.cancel()


async def test_hanging_reading_makes_only_its_own_loop_late() -> None:
    world = FakeWorld([probed("well", 5.0)])
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.advance(10.0)
    world.vram.read_sec = float("inf")
    await world.clock.advance(600.0)
    late_sec = world.housekeeping.overdue_sec()
    assert late_sec["VRAM readings"] > 500.0
    assert all(sec < 1.0 for loop, sec in late_sec.items() if loop != "VRAM readings")
    housekeeping.cancel()


async def test_loop_that_fails_every_time_becomes_late() -> None:
    world = FakeWorld([probed("well", 5.0)])
    await world.start()

    def fail() -> None:
        raise RuntimeError("injected")

    world.arbiter.manual.evict_idle = fail  # type: ignore[method-assign]  # nothing that a fake does comes to this
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.advance(600.0)
    assert world.housekeeping.overdue_sec()["VRAM readings"] > 500.0
    housekeeping.cancel()


async def test_consumer_added_by_a_reload_is_checked_at_once() -> None:
    world = FakeWorld([probed("a", 1.0)])
    world.routes.place("b", 1000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.clock.sleep(1)
    world.settings = replace(world.settings, consumers={"a": probed("a", 1.0), "b": probed("b", 1.0)})

    await world.arbiter.reload()
    await world.clock.sleep(0.1)

    assert world.arbiter.consumer_status("b").residency == "resident"
    housekeeping.cancel()
