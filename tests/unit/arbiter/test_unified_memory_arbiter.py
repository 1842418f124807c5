"""Evictions where free memory proves nothing: on a GPU that uses host RAM, and on a card that is asleep."""

from __future__ import annotations

from typing import Any

import pytest

from gpumand.domain.consumer import EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.device import Pool
from gpumand.domain.errors import EvictionFailed
from gpumand.domain.events import EvictionFailed as Failed
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import kill_consumer, reports, residency, routed

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
UNLISTED = {"processes": (), "attributed": False, "attributable": frozenset()}
POOL = {"pool": Pool.UNIFIED, "integrated": True, "proves_release": False}
PATIENT = AcquireOptions(timeout_sec=100)


async def world_with(properties: dict[str, Any], **victim: Any) -> FakeWorld:
    """A host where one consumer has to go for the other, on a device with these properties."""
    specs = [routed("llm", 16000, **victim), routed("image", 14000)]
    world = FakeWorld(specs, scheduler=SchedulerSettings(settle_timeout_sec=2, min_turn_sec=0))
    world.vram.describe(**properties)
    world.routes.place("llm", 16000)
    if "unit" in victim:
        world.units.become("llm.service", UnitActivity.ACTIVE)
        world.units.units["llm.service"].stopped = lambda: kill_consumer(world, "llm")
    await world.start()
    return world


async def test_the_drivers_process_list_proves_an_unload_from_a_shared_pool() -> None:
    world = await world_with(POOL)

    grant = await world.arbiter.acquire(client(), "image", PATIENT)

    assert grant.evicted == ("llm",)
    assert [(one.method, one.verified, one.freed_mib) for one in reports(world)] == [("http", True, 16000)]


@pytest.mark.parametrize(
    "properties",
    [POOL | UNLISTED, {"asleep": True, "proves_release": False} | UNLISTED],
    ids=["pool", "asleep"],
)
async def test_an_unload_without_proof_is_followed_by_a_stop_which_counts(properties: dict[str, Any]) -> None:
    world = await world_with(properties, unit="llm.service", evict=BOTH)

    grant = await world.arbiter.acquire(client(), "image", PATIENT)

    assert grant.evicted == ("llm",)
    [report] = reports(world)
    assert (report.tried, report.method, report.verified) == (("http", "unit-stop"), "unit-stop", False)
    assert residency(world, "llm") == "unloaded"


@pytest.mark.parametrize(
    "properties",
    [POOL | UNLISTED | {"free_mib": 8564}, {"asleep": True, "proves_release": False} | UNLISTED],
    ids=["pool that stays full", "asleep"],
)
async def test_an_unload_without_proof_alone_is_a_failure(properties: dict[str, Any]) -> None:
    world = await world_with(properties)

    with pytest.raises(EvictionFailed):
        await world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=10))

    assert reports(world) == []
    failures = [event.report.error for event in world.events if isinstance(event, Failed)]
    assert "no reading can show that it released its memory" in failures[0]


async def test_room_that_a_pool_has_now_is_granted_although_the_eviction_counts_as_failed() -> None:
    """The request needs free memory, not a successful eviction."""
    world = await world_with(POOL | UNLISTED)

    await world.arbiter.acquire(client(), "image", PATIENT)

    assert [type(event) for event in world.events if isinstance(event, Failed)] == [Failed]
    assert residency(world, "image") == "resident"


async def test_a_consumer_is_stopped_where_parking_it_would_free_nothing() -> None:
    parks = {"parks": True, "parked_host_mib": 1000, "unit": "llm.service", "evict": BOTH}
    for properties, method, after in (({}, "http", "parked"), (POOL, "unit-stop", "unloaded")):
        world = await world_with(properties, **parks)
        await world.arbiter.acquire(client(), "image", PATIENT)

        assert ([one.method for one in reports(world)], residency(world, "llm")) == ([method], after)


async def test_host_ram_of_other_programs_is_named_as_such() -> None:
    world = FakeWorld([routed("image", 12000)])
    world.vram.hold_unnamed(20000)
    world.vram.describe(pool=Pool.UNIFIED, proves_release=False)
    await world.start()

    plan = await world.arbiter.plan(client(), "image", AcquireOptions())

    assert "held: 19.5 GiB of host RAM in use by other programs. Stop programs that use host RAM to make room." in (
        plan.message
    )
    assert plan.unnamed_mib is None
