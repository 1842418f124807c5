"""The footprint of a lazy consumer is learned only from an observed load."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from gpumand.domain.consumer import BusyRoute, ConsumerSpec
from gpumand.domain.errors import TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, lazy
from tests.unit.arbiter.test_arbiter_learning import observe_for

COMFY = lazy("comfyui", 13000, busy=BusyRoute("/prompt", ("/exec_info/queue_remaining",)))


async def leased(world: FakeWorld, *held_mib: int, name: str = "comfyui", jobs: int = 0) -> None:
    """Hold a lease while the processes of a consumer hold these amounts, each until it is at rest."""
    grant = await world.arbiter.acquire(client(), name, AcquireOptions())
    for mib in held_mib:
        world.vram.hold(777, mib, consumer=name)
        world.arbiter.state.ledger.update(name, jobs=jobs)
        for _ in range(5):
            await observe_for(world)
    await world.arbiter.release(grant.lease.id)
    await observe_for(world)


def peaks(world: FakeWorld, name: str = "comfyui") -> tuple[int, ...]:
    return world.arbiter.state.consumer(name).memory.peaks_mib


@pytest.mark.parametrize("idle_mib", [200, 448, 700, 1900])
async def test_an_idle_server_whose_load_was_not_seen_is_not_measured(
    idle_mib: int, caplog: pytest.LogCaptureFixture
) -> None:
    world = FakeWorld([COMFY])
    await world.start()
    with caplog.at_level(logging.WARNING):
        await leased(world, idle_mib)
        await leased(world, idle_mib)
    assert peaks(world) == ()
    assert "vram_resident_mib" not in caplog.text


async def test_growth_over_the_idle_memory_shows_a_load() -> None:
    world = FakeWorld([COMFY])
    await world.start()
    await leased(world, 448, 9000)
    assert peaks(world) == (9000,)


async def test_the_idle_memory_before_the_lease_counts_too() -> None:
    world = FakeWorld([COMFY])
    world.vram.hold(777, 448, consumer="comfyui")
    await world.start()
    for _ in range(4):
        await observe_for(world)
    await leased(world, 3000)
    assert peaks(world) == (3000,)


async def test_the_start_of_a_server_with_large_plugins_is_not_taken_for_a_load() -> None:
    world = FakeWorld([COMFY])
    await world.start()
    await leased(world, 100, 1500)
    assert peaks(world) == (1500,), "it grew by more than a context from a context"
    other = FakeWorld([COMFY])
    await other.start()
    for _ in range(4):
        await observe_for(other)
    await leased(other, 1500)
    assert peaks(other) == (), "the process has just started"


async def test_reported_work_shows_a_load() -> None:
    world = FakeWorld([COMFY])
    await world.start()
    await leased(world, 1500, jobs=1)
    assert peaks(world) == (1500,)


async def test_memory_above_the_declared_footprint_is_always_learned() -> None:
    """Too low a declaration is what runs out of memory."""
    world = FakeWorld([replace(COMFY, vram_resident_mib=448)])
    await world.start()
    await leased(world, 12000)
    assert peaks(world) == (12000,)


async def test_a_router_taken_for_a_single_server_is_neither_granted_nor_measured() -> None:
    world = FakeWorld([by_unit("llama-server", 19456)])
    world.units.units["llama-server.service"].started = lambda: world.vram.hold(777, 356, consumer="llama-server")
    await world.start()
    with pytest.raises(TimedOut, match="its processes hold 356 MiB of VRAM"):
        await leased(world, 356, name="llama-server")
    for _ in range(5):
        await observe_for(world)
    assert peaks(world, "llama-server") == ()


def corrected(spec: ConsumerSpec, mib: int) -> ConsumerSpec:
    return replace(spec, vram_resident_mib=mib)


@pytest.mark.parametrize(("declared", "kept"), [(448, (9000,)), (13000, ()), (9500, (9000,)), (4000, ())])
async def test_a_footprint_that_is_corrected_by_a_reload_discards_measurements_that_contradict_it(
    declared: int, kept: tuple[int, ...]
) -> None:
    world = FakeWorld([corrected(COMFY, 448)])
    await world.start()
    await leased(world, 9000)
    world.settings = replace(world.settings, consumers={"comfyui": corrected(COMFY, declared)})
    await world.arbiter.reload()
    assert peaks(world) == kept


async def test_a_footprint_that_is_corrected_while_the_daemon_is_stopped_discards_them_too() -> None:
    world = FakeWorld([corrected(COMFY, 448)])
    await world.start()
    await leased(world, 9000)
    same = FakeWorld([corrected(COMFY, 448)], clock=world.clock, archive=world.archive)
    await same.start()
    assert peaks(same) == (9000,)
    other = FakeWorld([corrected(COMFY, 13000)], clock=world.clock, archive=world.archive)
    await other.start()
    assert peaks(other) == ()


async def test_idle_memory_that_an_older_version_learned_is_discarded() -> None:
    world = FakeWorld([COMFY])
    await world.start()
    await leased(world, 448, 13000)
    record = dict(world.archive.learned["comfyui"])
    del record["declared_mib"]
    record["memory"] = {**record["memory"], "peaks_mib": [448], "steady_mib": 448.0}
    world.archive.learned["comfyui"] = record
    again = FakeWorld([COMFY], clock=world.clock, archive=world.archive)
    await again.start()
    assert peaks(again) == ()
    assert again.arbiter.state.consumer("comfyui").memory.steady_mib is None


async def test_an_automatic_footprint_keeps_what_was_measured() -> None:
    automatic = replace(COMFY, vram_auto=True)
    world = FakeWorld([automatic])
    await world.start()
    await leased(world, 448, 9000)
    again = FakeWorld([replace(automatic, vram_resident_mib=16000)], clock=world.clock, archive=world.archive)
    await again.start()
    assert peaks(again) == (9000,)
