"""Several devices: which of them a request waits for, and what becomes of it when one is gone."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.device import Reading
from gpumand.domain.errors import DeviceUnavailable, InvalidArgs
from gpumand.domain.request import AcquireOptions, Verdict
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, lose_last_device, ooms, routed

TWO = (24564, 24564)


@pytest.fixture
async def losing() -> FakeWorld:
    """Device 1 lent to a, and about to be lost; c goes to device 0."""
    specs = [routed("a", 5000, devices=("1",)), routed("b", 5000, devices=("1",)), routed("c", 3000, devices=("0",))]
    world = FakeWorld(specs, total_mib=TWO)
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


async def test_a_vanished_device_refuses_its_own_requests_and_no_others(losing: FakeWorld) -> None:
    waiting = await waiting_for_b(losing)
    await lose_last_device(losing)

    grant = await losing.arbiter.acquire(client(3), "c", AcquireOptions())

    assert grant.lease.device == "0"
    with pytest.raises(DeviceUnavailable, match="device 1, configured for b, is not there"):
        await waiting
    assert losing.arbiter.status().queue == ()


async def test_a_lease_is_released_on_disk_too_while_somebody_waits_for_a_vanished_device(losing: FakeWorld) -> None:
    grant = await losing.arbiter.acquire(client(3), "c", AcquireOptions())
    waiting = await waiting_for_b(losing)
    await lose_last_device(losing)

    await losing.arbiter.release(grant.lease.id)

    assert grant.lease.id not in losing.store.leases
    assert grant.lease.id not in {lease.id for lease in losing.arbiter.status().leases}
    with pytest.raises(DeviceUnavailable):
        await waiting


async def test_a_plan_for_a_vanished_device_says_what_acquire_would(losing: FakeWorld) -> None:
    await lose_last_device(losing)

    report = await losing.arbiter.plan(client(), "b", AcquireOptions())

    assert (report.verdict, report.error) == (Verdict.REFUSE, "org.gpumand1.Error.DeviceUnavailable")
    with pytest.raises(DeviceUnavailable) as refused:
        await losing.arbiter.acquire(client(), "b", AcquireOptions())
    assert refused.value.message == report.message


async def test_what_is_resident_on_another_device_is_not_lent_where_it_is_not() -> None:
    world = FakeWorld([routed("x", 13000)], total_mib=TWO)
    world.vram.read_sec = READ_SEC
    world.routes.place("x", 13000)
    await world.start()

    with pytest.raises(InvalidArgs, match="x is resident on device 0; evict it first"):
        await world.arbiter.acquire(client(), "x", AcquireOptions(device="1"))

    assert world.arbiter.status().leases == ()
    assert (await world.arbiter.acquire(client(), "x", AcquireOptions(device="0"))).lease.device == "0"
    assert world.routes.called("load") == []


async def test_a_request_keeps_nobody_from_a_device_that_is_too_small_for_it() -> None:
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
    assert grant.waited_usec / 1e6 < 3, "its own load, and nothing else"
    assert not huge.done()
    huge.cancel()


async def test_a_request_that_fits_on_either_device_still_has_its_turn_on_both() -> None:
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
    assert not late.done(), "it came later and would have taken the slot that was waited for"
    late.cancel()


async def test_a_lease_is_on_its_card_after_a_restart_though_the_order_of_cards_is_another() -> None:
    specs = [routed("a", 5000, devices=("FAKE-1",)), routed("b", 5000)]
    world = FakeWorld(specs, total_mib=TWO)
    world.routes.consumer("a").device = 1
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    assert (lease.device, lease.uuids) == ("1", ("FAKE-1",))
    world.store.leases[lease.id] = replace(lease, device="0")  # as the cards were numbered then

    world = FakeWorld(specs, total_mib=TWO, store=world.store, clock=world.clock)
    world.routes.consumer("a").device = 1
    world.routes.place("a", 5000, device=1)
    await world.start()

    assert (world.arbiter.status().leases[0].device, world.arbiter.arbiter_state.state("a").devices) == ("1", (1,))
    grant = await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=20, device="0"))
    assert grant.lease.device == "0", "its slot is not taken"


async def test_who_waits_for_a_card_by_its_uuid_gets_that_one_though_its_index_is_another_by_then() -> None:
    world = FakeWorld([routed("a", 5000), routed("b", 5000)], total_mib=TWO)
    world.routes.where = lambda name: world.arbiter.arbiter_state.state(name).devices
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions(device="FAKE-1"))).lease
    waiting = asyncio.create_task(
        world.arbiter.acquire(client(2), "b", AcquireOptions(device="FAKE-1", timeout_sec=60))
    )
    await world.clock.sleep(1)
    read = world.vram.read

    async def swapped() -> Reading:
        reading = await read()
        first, second = reading.devices
        return replace(reading, devices=(replace(second, index=0), replace(first, index=1)))

    world.vram.read = swapped  # type: ignore[method-assign]
    await world.arbiter.arbiter_state.sample()
    await world.arbiter.release(lease.id)

    assert (await waiting).lease.device == "0"


async def test_a_consumer_of_unknown_device_is_one_devices_job_to_evict() -> None:
    specs = [routed("u", 8000, health=None), routed("a", 20000, devices=("0",)), routed("b", 20000, devices=("1",))]
    world = FakeWorld(specs, total_mib=TWO, scheduler=SchedulerSettings(concurrent_leases=0))
    world.vram.attributable.clear()  # a server in a container: its memory carries no name that leads to it
    world.vram.hold(5, 8000, device=0, name="docker")
    world.vram.hold(6, 8000, device=1, name="notebook")
    world.vram.read_sec = READ_SEC
    world.routes.consumer("b").device = 1
    world.routes.consumer("u").unload_sec = 3.0
    await world.start()
    assert world.arbiter.arbiter_state.state("u").devices == ()

    asking = [
        world.arbiter.acquire(client(1), "a", AcquireOptions()),
        world.arbiter.acquire(client(2), "b", AcquireOptions()),
    ]
    results = await asyncio.gather(*asking, return_exceptions=True)

    assert world.routes.called("unload") == ["u"], results
    assert ooms(world) == 0
