"""Consumers that are parked with their weights in host RAM and woken again, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.errors import EvictionFailed, InsufficientVram, LoadFailed
from gpumand.domain.events import LoadFinished
from gpumand.domain.request import AcquireOptions
from gpumand.ports import UnitFailed
from gpumand.testing.world import client
from tests.unit.arbiter.arbiter_setup import ooms, reports, residency, routed
from tests.unit.arbiter.parking_setup import HTTP, RESERVE_MIB, UNIT_STOP, make_world, sleeper


async def test_consumer_is_parked_and_woken_without_stopping_its_unit() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 14000))
    world.routes.place("a", 14000)
    await world.start()

    grant = await world.arbiter.acquire(client(1), "b", AcquireOptions())
    assert grant.evicted == ("a",)
    assert residency(world, "a") == "parked"
    assert world.routes.consumer("a").host_mib == 14000
    await world.arbiter.release(grant.lease.id)
    assert (await world.arbiter.acquire(client(1), "a", AcquireOptions())).evicted == ("b",)

    assert (residency(world, "a"), residency(world, "b")) == ("resident", "parked")
    assert world.units.calls == []
    assert [event.started for event in world.events if isinstance(event, LoadFinished)] == [False, False]


async def test_unit_is_stopped_when_host_ram_has_no_room() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 14000), ram_mib=13999)
    world.routes.place("a", 14000)
    await world.start()

    plan = await world.arbiter.plan(client(1), "b", AcquireOptions())
    await world.arbiter.acquire(client(1), "b", AcquireOptions())

    assert [(one.method, one.parks) for one in plan.evictions] == [("unit-stop", False)]
    assert world.routes.called("unload") == []
    assert world.units.calls == [("stop", "a.service")]
    assert residency(world, "a") == "unloaded"


async def test_parked_consumer_whose_residual_memory_is_needed_is_stopped() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 24000))
    world.routes.place("a", 14000)
    await world.start()

    await world.arbiter.acquire(client(1), "b", AcquireOptions(timeout_sec=60))

    assert [(one.method, one.expected_mib, one.freed_mib) for one in reports(world)] == [("unit-stop", 14000, 14000)]
    assert (world.routes.called("unload"), ooms(world)) == ([], 0)


async def test_least_recently_used_parked_consumer_frees_host_ram() -> None:
    world = make_world(*(sleeper(name, 14000) for name in "abc"), ram_mib=14000)
    world.routes.place("a", 14000)
    await world.start()
    for name in "bc":
        grant = await world.arbiter.acquire(client(1), name, AcquireOptions(timeout_sec=60))
        await world.clock.sleep(5)
        await world.arbiter.release(grant.lease.id)

    assert grant.evicted == ("a", "b")
    assert [residency(world, name) for name in "abc"] == ["unloaded", "parked", "resident"]
    assert world.units.calls == [("stop", "a.service")]
    assert [(one.consumer, one.method) for one in reports(world)] == [("a", "http"), ("a", "unit-stop"), ("b", "http")]


async def test_consumer_without_a_unit_is_not_evicted_when_it_cannot_be_parked() -> None:
    world = make_world(sleeper("a", 14000, unit="", evict=(HTTP,)), sleeper("b", 14000), ram_mib=0)
    world.routes.place("a", 14000)
    await world.start()

    with pytest.raises(InsufficientVram, match="; host RAM has no room to park a"):
        await world.arbiter.acquire(client(1), "b", AcquireOptions())

    assert world.routes.called("unload") == []
    world.memory.mib = 14000 + RESERVE_MIB
    await world.clock.sleep(1)
    assert (await world.arbiter.acquire(client(1), "b", AcquireOptions())).evicted == ("a",)


async def test_consumer_stopped_for_its_host_ram_is_announced() -> None:
    """Its service is stopped, which hooks and the history must show, although it frees no VRAM."""
    world = make_world(*(sleeper(name, 14000, residual_mib=0) for name in "abc"), ram_mib=14000)
    world.routes.place("a", 14000)
    await world.start()
    await world.arbiter.release((await world.arbiter.acquire(client(1), "b", AcquireOptions())).lease.id)

    await world.arbiter.acquire(client(1), "c", AcquireOptions(timeout_sec=60))

    announced = [(one.consumer, one.method, one.freed_mib) for one in reports(world)]
    assert announced == [("a", "http", 14000), ("a", "unit-stop", 0), ("b", "http", 14000)]
    assert reports(world)[1].why == "parked, and its 14000 MiB of host RAM are needed to park b"


@pytest.mark.parametrize("manual", [True, False])
async def test_consumer_that_must_be_stopped_is_not_parked_as_a_fallback(manual: bool) -> None:
    world = make_world(sleeper("a", 14000, evict=(UNIT_STOP, HTTP)), sleeper("b", 14000), ram_mib=0)
    world.routes.place("a", 14000)
    world.units.units["a.service"].stop_failure = UnitFailed("a.service does not stop")
    await world.start()

    evicting = (
        world.arbiter.evict("a", False, 20.0) if manual else world.arbiter.acquire(client(1), "b", AcquireOptions())
    )
    with pytest.raises(EvictionFailed):
        await evicting

    assert (world.routes.called("unload"), residency(world, "a")) == ([], "resident")


async def test_parking_waits_until_another_consumer_has_woken() -> None:
    only_route = sleeper("a", 14000, unit="", evict=(HTTP,), devices=("0",))
    world = make_world(
        only_route, sleeper("b", 14000, devices=("0",)), sleeper("w", 14000, devices=("1",)), total_mib=(24564, 24564)
    )
    world.memory.mib = 14000 + RESERVE_MIB
    world.routes.place("a", 14000)
    asleep = world.routes.consumer("w")
    asleep.device, asleep.host_mib, asleep.load_sec = 1, 14000, 30.0
    world.routes._hold(asleep, 500)  # no public method: another program has parked it
    world.units.units["w.service"].stop_failure = UnitFailed("w.service does not stop")
    await world.start()

    waking = asyncio.create_task(world.arbiter.acquire(client(1), "w", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(1)
    grant = await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=60))
    await waking

    assert (grant.evicted, grant.waited_usec > 28_000_000) == (("a",), True)
    assert [residency(world, name) for name in "abw"] == ["parked", "resident", "resident"]


async def test_consumer_that_failed_to_wake_can_be_evicted_after_its_backoff() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 24000))
    world.routes.place("a", 14000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    await world.arbiter.evict("a", False, 20.0)
    world.routes.consumer("a").load_error = "no"

    with pytest.raises(LoadFailed):
        await world.arbiter.acquire(client(1), "a", AcquireOptions(timeout_sec=60))
    assert residency(world, "a") == "failed"
    await world.clock.sleep(20)
    grant = await world.arbiter.acquire(client(1), "b", AcquireOptions(timeout_sec=60))

    assert grant.evicted == ("a",)
    assert world.units.calls[0] == ("stop", "a.service")
    housekeeping.cancel()


async def test_two_devices_do_not_reserve_the_same_host_ram() -> None:
    names = {"a": "0", "b": "1", "c": "0", "d": "1"}
    specs = [sleeper(name, 14000, devices=(device,)) for name, device in names.items()]
    world = make_world(*specs, ram_mib=20000, total_mib=(24564, 24564))
    for name, device in names.items():
        world.routes.consumer(name).device, world.routes.consumer(name).unload_sec = int(device), 5.0
    world.routes.place("a", 14000)
    world.routes.place("b", 14000, device=1)
    await world.start()

    asking = [
        world.arbiter.acquire(client(at), name, AcquireOptions(timeout_sec=60)) for at, name in enumerate("cd", 1)
    ]
    await asyncio.gather(*asking)

    assert sorted(residency(world, name) for name in "ab") == ["parked", "unloaded"]


async def test_stopping_a_parked_consumer_is_verified_against_its_residual_memory() -> None:
    world = make_world(sleeper("a", 14000))
    world.routes.place("a", 14000)
    await world.start()
    await world.arbiter.evict("a", False, 20.0)
    world.units.units["a.service"].stopped = lambda: (
        None
    )  # its process ends slowly, and its CUDA context stays meanwhile

    with pytest.raises(EvictionFailed, match="0 of 500 MiB became free"):
        await world.arbiter.evict("a", False, 20.0)


async def test_host_ram_is_read_right_before_the_eviction() -> None:
    """Host RAM that was available when the request arrived may be used up when it is served."""
    world = make_world(sleeper("a", 14000), sleeper("b", 14000), ram_mib=20000)
    world.routes.place("a", 14000)
    await world.start()
    lease = (await world.arbiter.acquire(client(1), "a", AcquireOptions())).lease
    waiting = asyncio.create_task(world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(1)

    world.memory.mib = RESERVE_MIB
    await world.arbiter.release(lease.id)
    await waiting

    assert world.units.calls == [("stop", "a.service")]


async def test_consumer_with_a_unit_is_stopped_when_host_ram_is_unknown() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 14000))
    world.memory.mib = None
    world.routes.place("a", 14000)
    await world.start()

    await world.arbiter.acquire(client(1), "b", AcquireOptions())

    assert world.units.calls == [("stop", "a.service")]


async def test_host_ram_is_not_read_when_no_consumer_parks() -> None:
    world = make_world(routed("a", 14000), routed("b", 14000))
    world.routes.place("a", 14000)
    await world.start()

    await world.arbiter.acquire(client(1), "b", AcquireOptions())

    assert world.memory.reads == 0


async def test_unit_is_stopped_when_parking_frees_nothing() -> None:
    world = make_world(sleeper("a", 14000), sleeper("b", 14000))
    world.routes.place("a", 14000)
    world.routes.consumer("a").lies = True
    await world.start()

    await world.arbiter.acquire(client(1), "b", AcquireOptions(timeout_sec=60))

    assert residency(world, "a") == "unloaded"
    assert reports(world)[0].tried == ("http", "unit-stop")


async def test_repeated_evict_parks_first_and_stops_next() -> None:
    world = make_world(sleeper("a", 14000))
    world.routes.place("a", 14000)
    await world.start()

    outcomes = [await world.arbiter.evict("a", False, 20.0)]
    assert not (await world.arbiter.evict("a", False, 20.0, "http")).changed, (
        "its unload route has freed everything it can"
    )
    outcomes += [await world.arbiter.evict("a", False, 20.0) for _ in range(2)]

    assert [(one.changed, one.method, one.freed_mib) for one in outcomes] == [
        (True, "http", 13500),
        (True, "unit-stop", 500),
        (False, "", 0),
    ]
    assert residency(world, "a") == "unloaded"


async def test_manual_eviction_checks_host_ram_unless_forced() -> None:
    world = make_world(sleeper("a", 14000, unit="", evict=(HTTP,)), ram_mib=0)
    world.routes.place("a", 14000)
    await world.start()

    with pytest.raises(EvictionFailed, match="host RAM has no room"):
        await world.arbiter.evict("a", False, 20.0)
    assert residency(world, "a") == "resident"
    assert (await world.arbiter.evict("a", True, 20.0)).method == "http"
    assert residency(world, "a") == "parked"
    assert not (await world.arbiter.evict("a", False, 20.0)).changed, "it has no unit, so nothing more can be freed"


async def test_idle_consumers_are_parked_only_if_host_ram_has_room() -> None:
    specs = [sleeper(name, 9000, idle_timeout_sec=30.0, unit="", evict=(HTTP,)) for name in "ab"]
    world = make_world(*specs, ram_mib=9000)
    for name in "ab":
        world.routes.place(name, 9000)
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())

    await world.clock.sleep(120)

    assert sorted(residency(world, name) for name in "ab") == ["parked", "resident"]
    (left,) = [name for name in "ab" if residency(world, name) == "resident"]
    assert world.arbiter.state.consumer(left).idle_since > 30, "it is not tried again in every round"
    housekeeping.cancel()
