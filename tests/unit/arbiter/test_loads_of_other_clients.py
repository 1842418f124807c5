"""Loads that another client has begun, or whose server reports that it is loading: joined, waited for, never undone."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import HealthRoute, UnitActivity
from gpumand.domain.errors import LoadFailed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, at_work, residency, routed
from tests.unit.arbiter.load_evidence_setup import restart_with, served

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
    world = FakeWorld([spec])
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
    world = FakeWorld([served("llm", 8000)])
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
    world = FakeWorld([served("llm", 8000, load_timeout_sec=300.0)])
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
