"""Loads that answer "done" without being done: what counts as evidence, and what is undone after a failure."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import ConsumerSpec, HealthRoute, Route
from gpumand.domain.errors import LoadFailed, TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import at_work, by_unit, residency, routed
from tests.unit.arbiter.load_evidence_setup import restart_with, run_server, served

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
