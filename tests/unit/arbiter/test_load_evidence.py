"""Loads that answer "done" without being done: what counts as evidence, and what is undone after a failure."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route, SchedulerSettings, UnitActivity
from gpumand.domain.errors import LoadFailed, TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
UNLIMITED = SchedulerSettings(concurrent_leases=0)


async def at_work(*specs: ConsumerSpec) -> FakeWorld:
    world = FakeWorld(specs, scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    await world.start()
    await world.arbiter.watch_units()
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    return world


def served(name: str, mib: int, **more: Any) -> ConsumerSpec:
    """A unit with a server that reports its health, and no load route."""
    health = {"url": "http://127.0.0.1:1", "health": HealthRoute("/health")}
    return by_unit(name, mib, **(health | more))


def run_server(world: FakeWorld, name: str, mib: int) -> None:
    """Let the unit of a consumer run with its model."""
    world.units.become(f"{name}.service", UnitActivity.ACTIVE)
    world.routes.place(name, mib)


def restart_with(world: FakeWorld, name: str, mib: int) -> None:
    """Let a start of the unit load the model, and a stop end its server."""
    unit = world.units.units[f"{name}.service"]

    def started() -> None:
        world.routes.consumer(name).running = True
        world.routes.place(name, mib)

    unit.started, unit.stopped = started, lambda: world.routes.die(name)


# -- load routes that answer early -------------------------------------------------------------------------------------


def replaced(name: str, mib: int, *, async_load: bool) -> ConsumerSpec:
    route = Route("/reload", async_load=async_load, timeout_sec=60.0)
    return routed(name, mib, load=route, health=HealthRoute("/health"))


async def test_health_of_the_process_that_is_replaced_is_not_believed() -> None:
    world = await at_work(replaced("kobold", 8000, async_load=True))
    server = world.routes.consumer("kobold")
    server.says_loaded, server.replaces_after_sec, server.load_sec = None, 0.5, 15.0
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(), "kobold", AcquireOptions(timeout_sec=60))

    assert world.clock.monotonic() - began >= 15.5
    assert server.loaded


async def test_health_that_never_changes_is_not_believed_without_memory() -> None:
    world = await at_work(routed("kobold", 8000, load=Route("/reload", async_load=True), load_timeout_sec=30.0))
    server = world.routes.consumer("kobold")
    server.says_loaded, server.early_load, server.load_sec = None, True, 1000.0
    world.vram.attributable.discard("kobold")

    with pytest.raises(LoadFailed, match=r"not loaded after 30 s: health check: the server runs"):
        await world.arbiter.acquire(client(), "kobold", AcquireOptions(timeout_sec=60))


async def test_growing_memory_is_evidence_of_an_early_answered_load() -> None:
    world = await at_work(routed("kobold", 8000, load=Route("/reload", async_load=True)))
    server = world.routes.consumer("kobold")
    server.says_loaded, server.early_load, server.load_sec = None, True, 6.0
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(), "kobold", AcquireOptions(timeout_sec=60))

    assert 6.0 <= world.clock.monotonic() - began < 8.0


# -- failures that the health check reports ----------------------------------------------------------------------------


async def test_failure_reported_by_the_health_check_ends_the_load_at_once() -> None:
    world = await at_work(routed("llm", 8000))
    server = world.routes.consumer("llm")
    server.early_load, server.load_sec = True, 1000.0
    loading = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(2.0)

    server.failed = "exit code 1"

    began = world.clock.monotonic()
    with pytest.raises(LoadFailed, match="the load failed: exit code 1"):
        await loading
    assert world.clock.monotonic() - began < 1.0


async def test_failure_of_the_load_before_does_not_end_the_next_one() -> None:
    world = await at_work(routed("llm", 8000))
    server = world.routes.consumer("llm")
    server.failed, server.early_load, server.load_sec = "exit code 1", True, 5.0

    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))).loaded


@pytest.mark.parametrize(
    ("status", "limit_sec", "advice"),
    [
        (401, 1.0, "set key_file"),
        (403, 1.0, "check key_file"),
        (404, 7.0, "correct health.path"),
        (405, 7.0, "correct health.path"),
        (400, 7.0, "correct health.path"),
        (302, 7.0, "correct health.path, or set key_file if this leads to a login,"),
    ],
)
async def test_health_route_that_cannot_be_asked_ends_the_load_and_its_unit_runs_on(
    status: int, limit_sec: float, advice: str
) -> None:
    world = await at_work(served("llm", 8000))
    restart_with(world, "llm", 8000)
    world.routes.consumer("llm").health_status = status
    began = world.clock.monotonic()

    with pytest.raises(LoadFailed, match=f"health route answered {status}.*{advice} in consumers.llm"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.clock.monotonic() - began < limit_sec
    assert world.units.calls == [("start", "llm.service")]
    await world.clock.sleep(20.0)
    assert residency(world, "llm") == "failed", "its memory shows, but nothing says that it is usable"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
async def test_health_route_that_asks_to_wait_is_waited_for(status: int) -> None:
    world = await at_work(served("llm", 8000))
    restart_with(world, "llm", 8000)
    server = world.routes.consumer("llm")
    server.health_status = status
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(30.0)
    assert not acquiring.done()

    server.health_status = 0

    assert (await acquiring).loaded


async def test_last_health_answer_is_part_of_the_timeout_also_for_a_request_that_joined() -> None:
    world = await at_work(routed("llm", 8000))
    world.routes.consumer("llm").early_load, world.routes.consumer("llm").load_sec = True, 100.0
    first = asyncio.create_task(world.arbiter.acquire(client(1), "llm", AcquireOptions(timeout_sec=5)))
    await world.clock.sleep(1.0)
    second = asyncio.create_task(world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=8)))

    for waiting in (first, second):
        with pytest.raises(TimedOut, match="health check: not loaded"):
            await waiting


# -- memory ------------------------------------------------------------------------------------------------------------


async def test_load_without_memory_fails_although_the_server_says_loaded() -> None:
    world = await at_work(routed("llm", 8000))
    world.routes.consumer("llm").says_loaded, world.routes.consumer("llm").mib = True, 0

    with pytest.raises(LoadFailed, match=r"its processes hold 0 MiB of VRAM, and a loaded llm holds 7\.8 GiB"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.arbiter.status().leases == ()


async def test_answer_without_the_declared_value_is_no_evidence_of_a_model() -> None:
    declared = HealthRoute("/health", loaded="/model_loaded")
    world = await at_work(routed("llm", 8000, health=declared, load_timeout_sec=20.0))
    server = world.routes.consumer("llm")
    server.says_loaded, server.mib = None, 1000
    world.vram.attributable.discard("llm")

    with pytest.raises(LoadFailed, match="not loaded after 20 s"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.arbiter.status().leases == ()


async def test_answer_without_the_declared_value_is_enough_where_the_memory_shows_the_model() -> None:
    declared = HealthRoute("/health", loaded="/model_loaded")
    world = await at_work(routed("llm", 8000, health=declared, load_timeout_sec=20.0))
    world.routes.consumer("llm").says_loaded = None

    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))).loaded


async def test_unit_without_a_model_names_what_to_declare() -> None:
    world = await at_work(by_unit("voice", 8000, load_timeout_sec=20.0))
    world.units.after_start = lambda unit: None

    with pytest.raises(LoadFailed) as failed:
        await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=60))

    assert (
        "not loaded after 20 s: voice.service runs, but its processes hold 0 MiB of VRAM, and a loaded voice holds "
        "7.8 GiB. Start its model with its unit, declare a load route, or declare its unload route in consumers.voice, "
        "which a service that loads with its first request needs"
    ) in str(failed.value)


async def test_model_far_smaller_than_its_footprint_is_refused_with_the_correction() -> None:
    world = await at_work(by_unit("voice", 8000, load_timeout_sec=20.0))
    world.units.units["voice.service"].started = lambda: world.vram.hold(77, 500, consumer="voice")

    with pytest.raises(LoadFailed) as failed:
        await world.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=60))

    assert "its processes hold 500 MiB of VRAM, and a loaded voice holds 7.8 GiB. If this is its whole model, " in str(
        failed.value
    )
    assert "correct vram_resident_mib in consumers.voice" in str(failed.value)


async def test_memory_that_shows_late_is_waited_for() -> None:
    world = await at_work(served("llm", 8000))
    world.units.units["llm.service"].started = lambda: world.vram.hold(77, 8000, consumer="llm", after_sec=6.0)
    world.routes.consumer("llm").says_loaded = True
    began = world.clock.monotonic()

    await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert 6.0 <= world.clock.monotonic() - began < 7.0
    assert world.units.calls == [("start", "llm.service")]


async def test_memory_of_a_container_counts_as_that_of_its_unit() -> None:
    world = await at_work(served("llm", 8000))
    world.vram.hold(1, 3000, name="desktop")
    world.units.units["llm.service"].started = lambda: world.vram.hold(77, 8000, name="server")
    world.routes.consumer("llm").says_loaded = True

    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions())).loaded


async def test_process_swapped_out_by_another_tool_is_started_again_by_the_next_acquire() -> None:
    world = await at_work(served("llm", 8000))
    run_server(world, "llm", 8000)
    restart_with(world, "llm", 8000)
    await world.clock.sleep(10.0)
    assert residency(world, "llm") == "resident"
    world.vram.release_consumer("llm")
    await world.clock.sleep(5.0)
    assert residency(world, "llm") == "unloaded"
    assert "no model in VRAM" in world.arbiter.consumer_status("llm").error

    assert (await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))).loaded

    assert world.units.calls == [("stop", "llm.service"), ("start", "llm.service")]
    assert residency(world, "llm") == "resident"


async def test_leased_consumer_without_memory_is_not_restarted_under_its_lease() -> None:
    world = await at_work(served("llm", 8000, load_timeout_sec=30.0))
    world.routes.consumer("llm").says_loaded = True
    run_server(world, "llm", 8000)
    await world.clock.sleep(10.0)
    lease = (await world.arbiter.acquire(client(1), "llm", AcquireOptions())).lease
    world.vram.release_consumer("llm")
    await world.clock.sleep(5.0)

    with pytest.raises(LoadFailed, match=r"llm\.service is not restarted, since llm is leased"):
        await world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=60))

    assert world.units.calls == []
    assert [one.id for one in world.arbiter.status().leases] == [lease.id]


async def test_lazy_consumer_needs_no_memory() -> None:
    world = await at_work(routed("comfy", 13000, load=None))

    assert (await world.arbiter.acquire(client(), "comfy", AcquireOptions())).lease.consumer == "comfy"


# -- units -------------------------------------------------------------------------------------------------------------


async def test_crash_loop_fails_the_load_with_the_first_restart() -> None:
    world = await at_work(served("llm", 8000))
    unit = world.units.units["llm.service"]
    unit.lines, world.routes.consumer("llm").running = ("CUDA error: out of memory",), False

    async def crash() -> None:
        await world.clock.sleep(2.5)
        world.units.become("llm.service", UnitActivity.ACTIVATING)
        unit.restarts += 1
        await world.clock.sleep(0.1)
        world.units.become("llm.service", UnitActivity.ACTIVE)

    unit.started = lambda: world.arbiter.scheduler.background.spawn(crash())
    began = world.clock.monotonic()

    with pytest.raises(LoadFailed, match=r"llm\.service ended.*started it again.*CUDA error: out of memory"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.clock.monotonic() - began < 3.5
    assert world.units.calls == [("start", "llm.service"), ("stop", "llm.service")]


async def test_server_that_died_under_its_active_unit_is_noticed_and_started_again() -> None:
    world = await at_work(served("llm", 8000))
    world.vram.attributable.discard("llm")  # the memory is a container's
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.consumer("llm").says_loaded = None
    world.units.units["llm.service"].started = lambda: setattr(world.routes.consumer("llm"), "running", True)
    await world.clock.sleep(10.0)
    assert residency(world, "llm") == "resident"
    world.routes.die("llm")
    await world.clock.sleep(20.0)
    assert residency(world, "llm") == "unloaded"
    assert "nothing listens on its port" in world.arbiter.consumer_status("llm").error

    await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.units.calls == [("stop", "llm.service"), ("start", "llm.service")]


async def test_server_that_stays_dead_is_a_failed_load() -> None:
    world = await at_work(served("llm", 8000, load_timeout_sec=20.0))
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.place("llm", 8000)
    await world.clock.sleep(10.0)
    world.routes.die("llm")
    await world.clock.sleep(20.0)

    with pytest.raises(LoadFailed, match="connection refused"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))


async def test_refused_server_without_a_unit_is_not_granted() -> None:
    world = await at_work(routed("remote", 8000, load=None, health=HealthRoute("/health")))
    world.vram.attributable.discard("remote")
    world.routes.consumer("remote").says_loaded = None
    await world.clock.sleep(10.0)
    world.routes.die("remote")
    await world.clock.sleep(20.0)

    with pytest.raises(LoadFailed, match="connection refused"):
        await world.arbiter.acquire(client(), "remote", AcquireOptions(timeout_sec=60))


# -- other clients' loads ----------------------------------------------------------------------------------------------


async def test_model_that_is_loaded_already_is_granted_without_calling_the_route() -> None:
    world = await at_work(routed("llm", 8000))
    world.routes.consumer("llm").load_error = "model is already running"
    world.routes.place("llm", 8000)

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert grant.lease.consumer == "llm"
    assert world.routes.called("load") == []


@pytest.mark.parametrize("status", [400, 409, 502, 503, 504])
async def test_model_that_another_client_is_loading_is_waited_for_and_never_unloaded(status: int) -> None:
    world = await at_work(routed("llm", 8000))
    server = world.routes.consumer("llm")
    server.load_steps, server.load_sec = 20, 20.0
    other = asyncio.create_task(world.routes.work(world.settings.consumers["llm"]))
    await world.clock.sleep(2.0)
    server.load_error, server.load_error_status = "model is already running", status

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert grant.lease.consumer == "llm"
    assert world.routes.called("unload") == []
    await other


async def test_refused_load_of_a_quiet_server_fails_with_the_answer_of_its_route() -> None:
    world = await at_work(routed("llm", 8000))
    server = world.routes.consumer("llm")
    server.load_error, server.load_error_status = "no such model", 404

    with pytest.raises(LoadFailed, match="answered 404: no such model"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert world.routes.called("unload") == [], "nothing was begun, so nothing is undone"


@pytest.mark.parametrize("status", [401, 403, 500])
async def test_refusal_that_waiting_cannot_change_ends_the_load_at_once(status: int) -> None:
    world = await at_work(routed("llm", 8000))
    server = world.routes.consumer("llm")
    server.load_error, server.load_error_status = "no", status
    began = world.clock.monotonic()

    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(), "llm", AcquireOptions())

    assert world.clock.monotonic() - began < 1.0


async def test_sleeping_model_is_granted_and_stays_granted() -> None:
    world = await at_work(routed("llm", 8000))
    world.routes.consumer("llm").sleeping = True

    await world.arbiter.acquire(client(), "llm", AcquireOptions())
    await world.clock.sleep(30.0)

    assert world.routes.called("load") == []
    assert residency(world, "llm") == "resident"
    assert world.arbiter.status().devices[0].reserved_mib == 8000, "it wakes with the first request"


# -- servers that say that they are loading ----------------------------------------------------------------------------

STATUS = HealthRoute("/models", loaded="/status", loaded_equals="loaded", loading="/status", loading_equals="loading")


async def test_load_of_another_client_is_waited_for_without_calling_the_route_and_reserves_memory() -> None:
    world = await at_work(routed("llm", 15000, health=STATUS), routed("voice", 15000))
    server = world.routes.consumer("llm")
    server.load_sec, server.says_loading = 12.0, True
    other = asyncio.create_task(world.routes.work(world.settings.consumers["llm"]))
    await world.clock.sleep(6.0)
    assert residency(world, "llm") == "loading"
    assert world.arbiter.status().devices[0].reserved_mib == 15000

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert (grant.lease.consumer, grant.loaded) == ("llm", False)
    assert world.routes.called("load") == []
    await other


async def test_load_that_another_client_has_just_begun_is_joined() -> None:
    world = await at_work(routed("llm", 15000, health=STATUS))
    server = world.routes.consumer("llm")
    server.load_sec, server.says_loading = 12.0, True
    other = asyncio.create_task(world.routes.work(world.settings.consumers["llm"]))

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert grant.lease.consumer == "llm"
    assert world.routes.called("load") == []
    await other


async def test_load_route_is_called_when_the_other_load_ends_without_a_model() -> None:
    world = await at_work(routed("llm", 15000, health=STATUS))
    server = world.routes.consumer("llm")
    server.load_sec, server.says_loading = 12.0, True
    other = asyncio.create_task(world.routes.work(world.settings.consumers["llm"]))
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(6.0)

    other.cancel()

    assert (await acquiring).loaded
    assert world.routes.called("load") == ["llm"]


async def test_memory_that_the_former_run_has_left_behind_is_no_evidence_of_the_new_model() -> None:
    spec = served("llm", 8000, health=HealthRoute("/health", loaded="/loaded"), load_timeout_sec=40.0)
    world = FakeWorld([spec], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    server, unit = world.routes.consumer("llm"), world.units.units["llm.service"]
    server.running, server.says_loaded = False, True
    unit.started = lambda: setattr(server, "running", True)
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.vram.hold(4711, 3000, name="worker", unit="llm.service", consumer="llm")
    await world.start()
    await world.arbiter.watch_units()

    with pytest.raises(LoadFailed, match="its processes hold 0 MiB of VRAM"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert world.units.calls[:2] == [("stop", "llm.service"), ("start", "llm.service")]


async def test_server_whose_port_was_closed_at_the_last_check_is_verified_before_a_grant() -> None:
    world = await at_work(served("llm", 8000))
    restart_with(world, "llm", 8000)
    await world.arbiter.release((await world.arbiter.acquire(client(), "llm", AcquireOptions())).lease.id)
    world.routes.consumer("llm").running = False  # its workers live on with the model
    await world.clock.advance_until(lambda: world.arbiter.state.consumer("llm").refused_probes == 1)
    assert residency(world, "llm") == "resident"

    await world.arbiter.acquire(client(2), "llm", AcquireOptions(timeout_sec=60))

    assert world.routes.consumer("llm").running
    assert world.units.calls.count(("start", "llm.service")) == 2


async def test_unit_that_has_run_for_long_without_its_model_is_started_again() -> None:
    """As a server that was started before the driver was ready, and computes on the CPU."""
    world = FakeWorld([served("llm", 8000)], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    world.units.become("llm.service", UnitActivity.ACTIVE)
    world.routes.consumer("llm").says_loaded = None
    restart_with(world, "llm", 8000)
    await world.clock.sleep(3600.0)
    await world.start()
    await world.arbiter.watch_units()

    await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert world.routes.consumer("llm").held_mib == 8000
    assert world.units.calls == [("stop", "llm.service"), ("start", "llm.service")]


async def test_server_that_has_loaded_onto_the_cpu_is_a_failed_load() -> None:
    """Its health check is answered with 503 while it loads, and then with 200."""
    world = FakeWorld([served("llm", 8000, load_timeout_sec=300.0)], scheduler=UNLIMITED)
    world.vram.read_sec = READ_SEC
    server, unit = world.routes.consumer("llm"), world.units.units["llm.service"]
    server.running, server.says_loaded, server.health_status = False, None, 503
    unit.started = lambda: setattr(server, "running", True)
    await world.start()
    await world.arbiter.watch_units()
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(3.0)
    server.health_status = 0

    began = world.clock.monotonic()
    with pytest.raises(LoadFailed, match="its processes hold 0 MiB of VRAM, and a loaded llm holds"):
        await acquiring
    assert world.clock.monotonic() - began < 15.0
