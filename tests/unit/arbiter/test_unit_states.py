"""What follows from the state of a unit: ended leases, containers that are left, readings, an absent systemd."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gpumand.domain.consumer import EvictionMethod, UnitActivity, UnitState
from gpumand.domain.driver_power import DriverState
from gpumand.domain.errors import NoSuchLease
from gpumand.domain.events import Event, LoadFinished
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.request import AcquireOptions
from gpumand.testing.units import FakeUnit
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, residency, routed

WORKER = "worker.service"
UNIT = AcquireOptions(LeaseLifetime.UNIT)


def in_worker(number: int = 1) -> Owner:
    return client(number, unit=WORKER, invocation_id=f"{1:032x}")


async def make_world() -> FakeWorld:
    world = FakeWorld([routed("a", 4000), by_unit("b", 5000)])
    world.units.units[WORKER] = FakeUnit(WORKER, UnitActivity.ACTIVE, invocation=1)
    world.routes.place("a", 4000)
    await world.start()
    await world.arbiter.watch_units()
    return world


async def test_units_of_consumers_and_of_leases_are_watched_together() -> None:
    world = await make_world()
    await world.arbiter.acquire(in_worker(), "a", UNIT)
    await world.units.start("b.service", 1.0)
    assert residency(world, "b") == "resident", "the watch of the lease's unit has replaced none of the others"
    world.units.become(WORKER, UnitActivity.FAILED)
    assert world.arbiter.status().leases == ()


async def test_unit_that_stopped_before_it_was_watched_gets_no_lease() -> None:
    world = await make_world()
    world.units.units[WORKER].invocation = 2  # it was restarted after the caller had been identified
    with pytest.raises(NoSuchLease):
        await world.arbiter.acquire(in_worker(), "a", UNIT)
    await world.clock.settle()
    assert (world.arbiter.status().leases, world.store.leases) == ((), {})


async def test_lease_is_granted_with_a_warning_while_systemd_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    world = await make_world()
    world.units.unavailable = True
    grant = await world.arbiter.acquire(in_worker(), "a", UNIT)
    assert f"lease {grant.lease.id} is bound to {WORKER}, whose state cannot be read" in caplog.text
    world.units.unavailable = False
    world.units.become(WORKER, UnitActivity.INACTIVE)
    assert world.arbiter.status().leases == (), "its end is noticed all the same"


async def test_lease_of_another_kind_watches_no_unit() -> None:
    world = await make_world()
    before = world.units._watched
    await world.arbiter.acquire(in_worker(), "a", AcquireOptions(LeaseLifetime.CONNECTION))
    assert world.units._watched == before
    world.units.become(WORKER, UnitActivity.INACTIVE)
    assert len(world.arbiter.status().leases) == 1


async def test_state_of_a_unit_leads_to_a_reading_only_while_the_driver_is_open() -> None:
    world = await make_world()
    await world.clock.sleep(5.0)
    reads = world.vram.reads
    world.arbiter.record_unit(UnitState("b.service", UnitActivity.ACTIVE))
    await world.clock.sleep(1.0)
    assert world.vram.reads == reads + 1

    world.arbiter.state.driver_state = DriverState.RESTING
    world.arbiter.record_unit(UnitState("b.service", UnitActivity.INACTIVE))
    await world.clock.sleep(1.0)
    assert world.vram.reads == reads + 1


async def test_unit_that_is_still_inactive_leads_to_no_reading_and_its_end_to_one() -> None:
    world = await make_world()
    await world.clock.sleep(5.0)
    reads = world.vram.reads
    world.arbiter.record_unit(UnitState("b.service", UnitActivity.INACTIVE))
    await world.clock.sleep(1.0)
    assert world.vram.reads == reads

    world.arbiter.record_unit(UnitState("b.service", UnitActivity.ACTIVE))
    await world.clock.sleep(1.0)
    world.arbiter.record_unit(UnitState("b.service", UnitActivity.FAILED))
    await world.clock.sleep(1.0)
    assert world.vram.reads == reads + 2


@pytest.mark.parametrize(
    ("activity", "is_read"),
    [(UnitActivity.INACTIVE, True), (UnitActivity.FAILED, True), (UnitActivity.DEACTIVATING, False)],
)
async def test_container_of_a_unit_is_read_when_the_unit_has_ended(
    activity: UnitActivity, is_read: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = replace(by_unit("c", 5000), container="c", evict=(EvictionMethod.CONTAINER,))
    world = FakeWorld([docker])
    container = next(name for name in world.units.units if name != "c.service")
    await world.start()
    await world.units.start("c.service", 1.0)
    await world.arbiter.watch_units()
    await world.clock.sleep(1.0)
    asked: list[str] = []
    state = world.units.state

    async def noted(unit: str) -> object:
        asked.append(unit)
        return await state(unit)

    monkeypatch.setattr(world.units, "state", noted)
    world.units.become("c.service", activity)
    await world.clock.settle()
    assert (container in asked) is is_read


async def test_unit_is_read_after_the_load_of_its_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await make_world()
    asked: list[float] = []
    state = world.units.state

    async def noted(unit: str) -> object:
        asked.append(world.clock.monotonic())
        await world.clock.sleep(0.5)
        return await state(unit)

    finished_at = float("inf")
    publish = world.arbiter._forward_event

    def forward(event: Event) -> None:
        nonlocal finished_at
        if isinstance(event, LoadFinished):
            finished_at = world.clock.monotonic()
        publish(event)

    world.arbiter._forward_event = forward
    monkeypatch.setattr(world.units, "state", noted)
    await world.arbiter.load("b", "", 60.0)
    await world.clock.sleep(1.0)
    assert max(asked) >= finished_at
    assert world.arbiter.consumer_status("b").unit_state == "active"
