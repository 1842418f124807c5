"""Memory in use that the driver attributes to no process: managed memory, programs in other containers, leaks."""

from __future__ import annotations

import pytest

from gpumand.domain.errors import EvictionFailed, InsufficientVram
from gpumand.domain.events import EvictionFailed as Failed
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, by_unit, reports, routed

LONG = AcquireOptions(timeout_sec=60)
CONTEXT_MIB, MANAGED_MIB = 500, 15500


def managed_world() -> FakeWorld:
    """A unit that runs llm, whose model is in managed memory: the driver names only its context."""
    world = FakeWorld([by_unit("llm", CONTEXT_MIB + MANAGED_MIB), routed("image", 12000)])
    world.vram.read_sec = READ_SEC
    world.units.after_start = lambda unit: _hold(world, MANAGED_MIB)
    world.units.after_end = lambda unit: _release(world, 0)
    return world


def _hold(world: FakeWorld, unnamed_mib: int) -> None:
    world.vram.hold(77, CONTEXT_MIB, consumer="llm", unit="llm.service", name="python")
    world.vram.hold_unnamed(unnamed_mib)


def _release(world: FakeWorld, unnamed_mib: int) -> None:
    world.vram.release(77)
    world.vram.hold_unnamed(unnamed_mib)


async def loaded(world: FakeWorld) -> None:
    await world.start()
    grant = await world.arbiter.acquire(client(), "llm", LONG)
    await world.arbiter.release(grant.lease.id)
    await world.clock.sleep(60)


async def test_a_refusal_names_memory_that_the_driver_does_not_name() -> None:
    world = FakeWorld([routed("image", 12000)])
    world.vram.hold_unnamed(20000)
    await world.start()

    with pytest.raises(InsufficientVram, match=r"held: 19\.5 GiB in use by processes that the driver does not name"):
        await world.arbiter.acquire(client(), "image", LONG)

    [device] = world.arbiter.status().devices
    assert (device.used_mib, device.foreign_mib, device.unnamed_mib) == (20000, 0, 20000)
    assert (await world.arbiter.plan(client(), "image", LONG)).unnamed_mib == 20000


async def test_named_processes_are_no_part_of_it() -> None:
    world = FakeWorld([routed("image", 12000)])
    world.vram.hold_unnamed(9000)
    world.vram.hold(1, 8000, name="game")
    await world.start()

    with pytest.raises(InsufficientVram, match=r"held: 8\.8 GiB in use by processes .*, 7\.8 GiB by game"):
        await world.arbiter.acquire(client(), "image", LONG)

    assert world.arbiter.status().devices[0].unnamed_mib == 9000


async def test_unknown_use_is_not_zero() -> None:
    world = FakeWorld([routed("image", 12000)])
    world.vram.fail("nvml-hangs: a driver call has not returned")
    await world.start()

    assert world.arbiter.status().devices[0].unnamed_mib is None
    assert (await world.arbiter.plan(client(), "image", LONG)).unnamed_mib is None


async def test_a_loaded_consumer_is_expected_to_free_unnamed_memory_up_to_its_footprint() -> None:
    world = managed_world()
    await loaded(world)

    plan = await world.arbiter.plan(client(), "image", LONG)

    assert plan.verdict is Verdict.GRANT
    assert [(one.consumer, one.expected_mib) for one in plan.evictions] == [("llm", CONTEXT_MIB + MANAGED_MIB)]
    assert (await world.arbiter.acquire(client(), "image", LONG)).evicted == ("llm",)
    assert [(one.verified, one.freed_mib) for one in reports(world)] == [(True, CONTEXT_MIB + MANAGED_MIB)]


async def test_unnamed_memory_of_a_leased_consumer_is_not_reserved_on_top() -> None:
    world = managed_world()
    await loaded(world)
    await world.arbiter.acquire(client(), "llm", LONG)

    [device] = world.arbiter.status().devices

    assert device.reserved_mib == 0
    assert device.used_mib == CONTEXT_MIB + MANAGED_MIB


async def test_a_stopped_consumer_whose_memory_stays_was_not_evicted() -> None:
    world = managed_world()
    world.units.after_end = lambda unit: _release(world, MANAGED_MIB)
    await loaded(world)

    with pytest.raises(EvictionFailed):
        await world.arbiter.acquire(client(), "image", LONG)

    [report] = reports(world, Failed)
    assert "15500 MiB stay in use on device 0 by processes that the driver does not name" in report.error
    assert reports(world) == []
    assert world.routes.called("load") == []


async def test_memory_of_a_process_that_left_the_list_without_freeing_it_is_a_failure() -> None:
    world = FakeWorld([by_unit("llm", 16000), routed("image", 12000)])
    world.vram.read_sec = READ_SEC
    world.units.after_start = lambda unit: world.vram.hold(77, 16000, consumer="llm", unit="llm.service")
    world.units.after_end = lambda unit: _release(world, 16000)
    await loaded(world)

    with pytest.raises(EvictionFailed):
        await world.arbiter.acquire(client(), "image", LONG)

    [report] = reports(world, Failed)
    assert "its processes have ended, but 16000 MiB stay in use on device 0" in report.error
    assert report.freed_mib == 0


async def test_memory_that_a_named_process_took_meanwhile_is_no_failure_of_the_eviction() -> None:
    world = FakeWorld([by_unit("llm", 16000), routed("image", 12000)])
    world.vram.read_sec = READ_SEC
    world.units.after_start = lambda unit: world.vram.hold(77, 16000, consumer="llm", unit="llm.service")

    def ended(unit: str) -> None:
        world.vram.release(77)
        world.vram.hold(1, 16000, name="game")

    world.units.after_end = ended
    await loaded(world)

    with pytest.raises(InsufficientVram, match="by game"):
        await world.arbiter.acquire(client(), "image", LONG)

    assert reports(world, Failed) == []
    assert [one.freed_mib for one in reports(world)] == [16000]


async def test_a_failed_eviction_names_what_uses_the_device_where_the_driver_attributes_nothing() -> None:
    world = FakeWorld([by_unit("llm", 16000), routed("image", 12000)])
    world.vram.read_sec = READ_SEC
    world.vram.attributed = False
    world.units.after_start = lambda unit: world.vram.hold_unnamed(16000)
    world.units.after_end = lambda unit: None
    world.vram.hold(1, 3000, name="game")
    await loaded(world)

    with pytest.raises(EvictionFailed):
        await world.arbiter.acquire(client(), "image", LONG)

    [report] = reports(world, Failed)
    assert "device 0 is in use by game (pid 1) with 2.9 GiB, processes that the driver does not name" in report.error
