"""The unit of one load: what is started, what is left alone, and which end of it ends the load."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumand.arbiter.loading_unit import LoadingUnit
from gpumand.domain.consumer import BusyReport, BusyRoute, ConsumerSpec, EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.request import AcquireOptions
from gpumand.ports import RouteFailed, UnitFailed
from gpumand.testing.routes import FakeRoutes
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


async def world_of(*specs: ConsumerSpec) -> FakeWorld:
    world = FakeWorld(specs, scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    await world.arbiter.watch_units()
    return world


def unit_of(world: FakeWorld, name: str = "llm") -> LoadingUnit:
    state = world.arbiter.state
    return LoadingUnit(state, world.units, world.routes, state.consumer(name).spec, (0,))


class _WithoutBusyRoute(FakeRoutes):
    async def probe_busy(self, spec: ConsumerSpec) -> BusyReport:
        return BusyReport(None, error="busy route answered 404", status=404)


async def test_consumer_without_a_unit_passes_every_check() -> None:
    unit = unit_of(await world_of(routed("llm", 8000)))
    assert await unit.is_running()
    await unit.check()
    assert (await unit.log_lines(), unit.started) == ((), False)
    with pytest.raises(
        RouteFailed, match=r"dead\. gpumand can restart it only if it knows its unit: set unit or container"
    ):
        await unit.restart("dead")


@pytest.mark.parametrize(
    ("activity", "result", "message"),
    [
        (UnitActivity.FAILED, "oom-kill", r"ended while llm was loading \(oom-kill\)"),
        (UnitActivity.INACTIVE, "success", r"ended while llm was loading \(success\)"),
        (UnitActivity.ACTIVATING, "exit-code", r"and systemd started it again \(1 restarts so far\)"),
    ],
)
async def test_end_of_its_unit_ends_the_load(activity: UnitActivity, result: str, message: str) -> None:
    world = await world_of(by_unit("llm", 8000))
    unit = unit_of(world)
    await unit.start()
    await unit.check()
    world.units.units["llm.service"].restarts = 1
    world.units.become("llm.service", activity, result)
    with pytest.raises(UnitFailed, match=message):
        await unit.check()


async def test_restart_that_is_over_before_the_next_look_ends_the_load_too() -> None:
    world = await world_of(by_unit("llm", 8000))
    unit = unit_of(world)
    await unit.start()
    world.units.units["llm.service"].invocation += 1
    with pytest.raises(UnitFailed, match="systemd started it again"):
        await unit.check()


async def test_systemd_that_does_not_answer_ends_no_load() -> None:
    world = await world_of(by_unit("llm", 8000))
    unit = unit_of(world)
    await unit.start()
    world.units.unavailable = True
    await unit.check()


async def test_unit_is_restarted_once_only() -> None:
    world = await world_of(by_unit("llm", 8000))
    world.units.become("llm.service", UnitActivity.ACTIVE)
    unit = unit_of(world)
    assert await unit.is_running()
    await unit.restart("nothing listens")
    with pytest.raises(RouteFailed, match=r"^still nothing listens$"):
        await unit.restart("still nothing listens")
    assert world.units.calls == [("stop", "llm.service"), ("start", "llm.service")]


def shared(name: str, mib: int, **more: Any) -> ConsumerSpec:
    return routed(name, mib, unit="router.service", evict=BOTH, **more)


async def test_unit_is_neither_restarted_nor_stopped_while_another_consumer_in_it_is_leased() -> None:
    world = await world_of(shared("llm", 8000), shared("other", 3000))
    world.units.become("router.service", UnitActivity.ACTIVE)
    world.routes.place("other", 3000)
    await world.housekeeping.refresh_all()
    await world.arbiter.acquire(client(), "other", AcquireOptions())
    unit = unit_of(world)
    with pytest.raises(RouteFailed, match=r"router\.service is not restarted, since other runs in it and is leased"):
        await unit.restart("the model is missing")
    with pytest.raises(UnitFailed, match="so that it was not stopped"):
        await unit.stop()
    assert world.units.calls == []
    assert not unit.stopped


@pytest.mark.parametrize(("jobs", "work"), [(1, "is busy"), (0, ""), (None, "does not answer whether it is busy")])
async def test_unit_of_a_server_that_may_be_at_work_is_not_restarted(jobs: int | None, work: str) -> None:
    world = await world_of(routed("llm", 8000, unit="llm.service", evict=BOTH, busy=BusyRoute("/slots", ("/n",))))
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.consumer("llm").jobs = jobs
    unit = unit_of(world)
    if work:
        with pytest.raises(RouteFailed, match=f"llm.service is not restarted, since llm {work}: retry when it is idle"):
            await unit.restart("the model is missing")
    else:
        await unit.restart("the model is missing")
    assert bool(world.units.calls) == (not work)


@pytest.mark.parametrize(("connections", "work"), [(2, "is busy"), (0, "")])
async def test_server_without_a_busy_route_is_at_work_while_clients_are_connected(connections: int, work: str) -> None:
    world = await world_of(routed("llm", 8000, unit="llm.service", evict=BOTH, busy=BusyRoute("/slots", ("/n",))))
    world.arbiter.state.ledger.update("llm", jobs=connections)

    state = world.arbiter.state
    unit = LoadingUnit(state, world.units, _WithoutBusyRoute(world.clock), state.consumer("llm").spec, (0,))
    assert await unit.work() == work


async def test_server_that_has_ended_is_not_at_work() -> None:
    world = await world_of(routed("llm", 8000, unit="llm.service", evict=BOTH, busy=BusyRoute("/slots", ("/n",))))
    world.arbiter.state.ledger.update("llm", jobs=3)
    world.routes.die("llm")
    assert await unit_of(world).work() == ""


async def test_last_lines_are_those_of_the_run_that_was_loaded() -> None:
    world = await world_of(by_unit("llm", 8000))
    world.units.units["llm.service"].lines = ("CUDA error", "exit 1")
    unit = unit_of(world)
    await unit.start()
    assert await unit.log_lines() == ("CUDA error", "exit 1")


async def test_failed_start_counts_as_begun_so_that_it_is_undone() -> None:
    world = await world_of(by_unit("llm", 8000))
    world.units.units["llm.service"].start_failure = UnitFailed("llm.service failed", "exit-code")
    unit = unit_of(world)
    with pytest.raises(UnitFailed):
        await unit.start()
    assert unit.started


async def test_memory_that_is_taken_during_the_start_belongs_to_the_new_run() -> None:
    """As of a unit with ``ExecStartPost=`` that waits for its server, whose container the driver does not name."""
    world = await world_of(by_unit("llm", 8000))
    unit = unit_of(world)
    world.units.units["llm.service"].start_delay_sec = 10.0
    starting = asyncio.create_task(unit.start())
    await world.clock.sleep(5.0)
    world.vram.hold(77, 8000, name="server")
    await world.arbiter.state.sample()
    await starting

    assert not unit.memory.is_missing(began_here=True)
