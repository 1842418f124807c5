"""Which loads of an earlier daemon process are continued, and which records are dropped."""

from __future__ import annotations

import errno

import pytest

from gpumand.domain.device import Devices
from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.testing.store import MemoryStore
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import residency, routed

LOAD_SEC = 120.0


def world_with(store: MemoryStore, names: tuple[str, ...] = ("a", "b"), devices: int = 1) -> FakeWorld:
    specs = [routed(name, 9000, load_timeout_sec=LOAD_SEC) for name in names]
    world = FakeWorld(specs, store=store, total_mib=(24564,) * devices)
    for name in names:
        world.routes.consumer(name).load_sec = 20.0
    return world


async def started(store: MemoryStore, *, since_sec: float, place: Devices = (0,), **more: object) -> FakeWorld:
    """A daemon that finds the record of a load of a that began ``since_sec`` ago."""
    world = world_with(store, **more)  # type: ignore[arg-type]
    store.loads["a"] = (place, world.clock.realtime_usec() - int(since_sec * 1e6))
    await world.start()
    return world


@pytest.mark.parametrize(
    ("since_sec", "is_resumed"),
    [(0.0, True), (LOAD_SEC - 1, True), (LOAD_SEC, False), (-5.0, True), (-LOAD_SEC, False)],
)
async def test_load_is_resumed_within_its_time_limit_also_after_the_wall_clock_was_set_back(
    since_sec: float, is_resumed: bool
) -> None:
    store = MemoryStore()
    world = await started(store, since_sec=since_sec)
    await world.clock.settle()
    assert (residency(world, "a") == "loading", "a" in store.loads) == (is_resumed, is_resumed)


@pytest.mark.parametrize(("place", "names"), [((0,), ("b",)), ((), ("a", "b"))], ids=["no such consumer", "no device"])
async def test_record_that_fits_nothing_any_more_is_dropped(place: Devices, names: tuple[str, ...]) -> None:
    store = MemoryStore()
    world = await started(store, since_sec=1.0, place=place, names=names)
    assert store.loads == {}
    assert world.routes.called("load") == []
    assert world.arbiter.state.ledger.jobs == {}


async def test_of_two_records_for_one_device_the_second_is_dropped() -> None:
    store = MemoryStore()
    world = world_with(store, devices=2)
    now_usec = world.clock.realtime_usec()
    store.loads = {"a": ((0,), now_usec), "b": ((0, 1), now_usec)}
    await world.start()
    await world.clock.settle()
    assert (residency(world, "a"), residency(world, "b")) == ("loading", "unloaded")
    assert list(store.loads) == ["a"]


async def test_loads_on_two_devices_are_resumed_together() -> None:
    store = MemoryStore()
    world = world_with(store, devices=2)
    now_usec = world.clock.realtime_usec()
    store.loads = {"a": ((0,), now_usec), "b": ((1,), now_usec)}
    await world.start()
    await world.clock.settle()
    assert (residency(world, "a"), residency(world, "b")) == ("loading", "loading")


async def test_record_that_cannot_be_deleted_does_not_prevent_the_start(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    store.error = OSError(errno.EROFS, "Read-only file system")
    world = world_with(store)
    now_usec = world.clock.realtime_usec()
    store.loads = {"gone": ((0,), now_usec), "a": ((0,), now_usec)}
    await world.start()
    await world.clock.settle()
    assert residency(world, "a") == "loading"
    assert "Read-only file system" in caplog.text


async def test_lease_that_cannot_be_deleted_does_not_prevent_the_start(caplog: pytest.LogCaptureFixture) -> None:
    gone = Lease("e" * 16, "gone", "0", client(1), LeaseLifetime.TTL, 10, 0, 9.0)
    store = MemoryStore(gone)
    store.error = OSError(errno.EROFS, "Read-only file system")
    world = world_with(store)
    await world.start()
    assert world.arbiter.status().leases == ()
    assert "Read-only file system" in caplog.text
