"""Several devices: the devices a request waits for, and requests whose device vanishes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.device import Devices, Reading
from gpumand.domain.errors import DeviceUnavailable, InvalidArgs
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, lose_last_device, ooms, routed

TWO = (24564, 24564)


@pytest.fixture
async def losing_device() -> FakeWorld:
    """Device 1 is leased to a and will vanish; c fits on device 0."""
    specs = [routed("a", 5000, devices=("1",)), routed("b", 5000, devices=("1",)), routed("c", 3000, devices=("0",))]
    world = FakeWorld(specs, total_mib=TWO, scheduler=SchedulerSettings(concurrent_leases=1))
    world.vram.read_sec = READ_SEC
    world.routes.consumer("a").device = 1
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    return world


async def waiting_for_b(world: FakeWorld) -> asyncio.Task[object]:
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=3600)))
    await world.clock.sleep(1.0)
    assert [one.consumer for one in world.arbiter.status().queue] == ["b"]
    return waiting


async def test_vanished_device_only_refuses_requests_for_it(losing_device: FakeWorld) -> None:
    waiting = await waiting_for_b(losing_device)
    await lose_last_device(losing_device)

    grant = await losing_device.arbiter.acquire(client(3), "c", AcquireOptions())

    assert grant.lease.device == "0"
    with pytest.raises(DeviceUnavailable, match="device 1, configured for b, is not present"):
        await waiting
    assert losing_device.arbiter.status().queue == ()


async def test_lease_is_deleted_from_disk_while_a_request_waits_for_a_vanished_device(losing_device: FakeWorld) -> None:
    grant = await losing_device.arbiter.acquire(client(3), "c", AcquireOptions())
    waiting = await waiting_for_b(losing_device)
    await lose_last_device(losing_device)

    await losing_device.arbiter.release(grant.lease.id)

    assert grant.lease.id not in losing_device.store.leases
    assert grant.lease.id not in {lease.id for lease in losing_device.arbiter.status().leases}
    with pytest.raises(DeviceUnavailable):
        await waiting


async def test_plan_for_a_vanished_device_agrees_with_acquire(losing_device: FakeWorld) -> None:
    await lose_last_device(losing_device)

    report = await losing_device.arbiter.plan(client(), "b", AcquireOptions())

    assert (report.verdict, report.error) == (Verdict.REFUSE, "org.gpumand1.Error.DeviceUnavailable")
    with pytest.raises(DeviceUnavailable) as refused:
        await losing_device.arbiter.acquire(client(), "b", AcquireOptions())
    assert refused.value.message == report.message


async def test_consumer_resident_on_another_device_is_not_granted_on_the_requested_one() -> None:
    world = FakeWorld([routed("x", 13000)], total_mib=TWO)
    world.vram.read_sec = READ_SEC
    world.routes.place("x", 13000)
    await world.start()

    with pytest.raises(InvalidArgs, match=r"x is resident on device 0, not on device 1\. Evict it first"):
        await world.arbiter.acquire(client(), "x", AcquireOptions(device="1"))

    assert world.arbiter.status().leases == ()
    assert (await world.arbiter.acquire(client(), "x", AcquireOptions(device="0"))).lease.device == "0"
    assert world.routes.called("load") == []


async def test_request_does_not_block_a_device_that_is_too_small_for_it() -> None:
    specs = [routed("a", 20000, devices=("0",)), routed("huge", 20000), routed("small", 2000, devices=("1",))]
    world = FakeWorld(specs, total_mib=(24564, 8192))
    world.vram.read_sec = READ_SEC
    world.routes.consumer("small").device = 1
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    huge = asyncio.create_task(world.arbiter.acquire(client(2), "huge", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)

    grant = await world.arbiter.acquire(client(3), "small", AcquireOptions(timeout_sec=60))

    assert grant.lease.device == "1"
    assert grant.waited_usec / 1e6 < 3, "only its own load"
    assert not huge.done()
    huge.cancel()


async def test_request_that_fits_on_either_device_keeps_its_position_on_both() -> None:
    specs = [routed("a", 20000, devices=("0",)), routed("b", 20000, devices=("1",)), routed("either", 20000)]
    world = FakeWorld([*specs, routed("late", 2000, devices=("1",))], total_mib=TWO)
    world.routes.consumer("b").device = world.routes.consumer("late").device = 1
    world.routes.consumer("either").device = 1
    await world.start()
    await world.arbiter.acquire(client(1), "a", AcquireOptions())
    lease = (await world.arbiter.acquire(client(2), "b", AcquireOptions())).lease
    either = asyncio.create_task(world.arbiter.acquire(client(3), "either", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)
    late = asyncio.create_task(world.arbiter.acquire(client(4), "late", AcquireOptions(timeout_sec=600)))
    await world.clock.sleep(1.0)

    await world.arbiter.release(lease.id)

    assert (await either).lease.device == "1"
    assert not late.done(), "it came later and would have taken the slot of an earlier request"
    late.cancel()


async def test_lease_follows_its_device_when_indices_change_over_a_restart() -> None:
    specs = [routed("a", 5000, devices=("FAKE-1",)), routed("b", 5000)]
    world = FakeWorld(specs, total_mib=TWO)
    world.routes.consumer("a").device = 1
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    assert (lease.device, lease.uuids) == ("1", ("FAKE-1",))
    world.store.leases[lease.id] = replace(lease, device="0")  # the index before the restart

    world = FakeWorld(specs, total_mib=TWO, store=world.store, clock=world.clock)
    world.routes.consumer("a").device = 1
    world.routes.place("a", 5000, device=1)
    await world.start()

    assert (world.arbiter.status().leases[0].device, world.arbiter.state.consumer("a").devices) == ("1", (1,))
    grant = await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=20, device="0"))
    assert grant.lease.device == "0", "its lease slot is free"


async def test_request_by_uuid_follows_the_device_when_its_index_changes() -> None:
    world = FakeWorld(
        [routed("a", 5000), routed("b", 5000)], total_mib=TWO, scheduler=SchedulerSettings(concurrent_leases=1)
    )
    world.routes.where = lambda name: world.arbiter.state.consumer(name).devices
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions(device="FAKE-1"))).lease
    waiting = asyncio.create_task(
        world.arbiter.acquire(client(2), "b", AcquireOptions(device="FAKE-1", timeout_sec=60))
    )
    await world.clock.sleep(1)
    read = world.vram.read

    async def swapped(only: Devices = ()) -> Reading:
        reading = await read(only)
        first, second = reading.devices
        return replace(reading, devices=(replace(second, index=0), replace(first, index=1)))

    world.vram.read = swapped  # type: ignore[method-assign]
    await world.arbiter.state.sample()
    await world.arbiter.release(lease.id)

    assert (await waiting).lease.device == "0"


async def test_consumer_on_an_unknown_device_is_evicted_by_one_job() -> None:
    specs = [routed("u", 8000, health=None), routed("a", 20000, devices=("0",)), routed("b", 20000, devices=("1",))]
    world = FakeWorld(specs, total_mib=TWO, scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.attributable.clear()  # a server in a container: its memory is not attributed to it
    world.vram.hold(5, 8000, device=0, name="docker")
    world.vram.hold(6, 8000, device=1, name="notebook")
    world.vram.read_sec = READ_SEC
    world.routes.consumer("b").device = 1
    world.routes.consumer("u").unload_sec = 3.0
    await world.start()
    assert world.arbiter.state.consumer("u").devices == ()

    asking = [
        world.arbiter.acquire(client(1), "a", AcquireOptions()),
        world.arbiter.acquire(client(2), "b", AcquireOptions()),
    ]
    results = await asyncio.gather(*asking, return_exceptions=True)

    assert world.routes.called("unload") == ["u"], results
    assert ooms(world) == 0
