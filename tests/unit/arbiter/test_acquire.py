"""Acquire with fakes in virtual time: evictions, loads, grants, and the order of their events."""

from __future__ import annotations

import asyncio
import errno

import pytest

from gpumand.domain.consumer import BusyRoute, SchedulerSettings, UnitActivity
from gpumand.domain.errors import (
    Busy,
    HostError,
    InvalidArgs,
    LimitsExceeded,
    NoSuchConsumer,
    ShuttingDown,
    TimedOut,
)
from gpumand.domain.events import LeaseGranted
from gpumand.domain.lease import LeaseLifetime, Owner
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import by_unit, hold_foreign_memory, reports, residency, routed

IMAGE_MIB, VOICE_MIB = 13312, 2867


@pytest.fixture
def pair() -> FakeWorld:
    return FakeWorld(
        [routed("image", IMAGE_MIB), routed("voice", VOICE_MIB)], scheduler=SchedulerSettings(concurrent_leases=1)
    )


# -- the reference scheduler's cases -------------------------------------------------------------------------------


async def test_request_evicts_one_consumer_and_loads_the_other(pair: FakeWorld) -> None:
    pair.routes.place("image", IMAGE_MIB)
    hold_foreign_memory(pair, 9000)
    await pair.start()

    grant = await pair.arbiter.acquire(client(), "voice", AcquireOptions())

    assert (pair.routes.called("unload"), pair.routes.called("load")) == (["image"], ["voice"])
    assert (grant.evicted, grant.loaded, grant.lease.consumer) == (("image",), True, "voice")
    assert pair.arbiter.status().stats.evictions == 1
    assert (residency(pair, "image"), residency(pair, "voice")) == ("unloaded", "resident")
    assert pair.routes.consumer("voice").ooms == 0


async def test_resident_consumer_is_granted_without_reading_vram(pair: FakeWorld) -> None:
    pair.routes.place("image", IMAGE_MIB)
    await pair.start()
    reads = pair.vram.reads

    grant = await pair.arbiter.acquire(client(), "image", AcquireOptions())

    assert (grant.evicted, grant.loaded, pair.vram.reads) == ((), False, reads)
    assert pair.routes.called("unload") == []


async def test_coexisting_consumer_is_skipped_as_a_victim() -> None:
    world = FakeWorld(
        [routed("llm", 8000), routed("image", 13000), routed("voice", 2867, can_coexist_with=frozenset({"llm"}))]
    )
    world.routes.place("llm", 8000)
    world.routes.place("image", 13000)
    hold_foreign_memory(world, 2000)
    await world.start()

    grant = await world.arbiter.acquire(client(), "voice", AcquireOptions())

    assert grant.evicted == ("image",)
    assert residency(world, "llm") == "resident"


async def test_eviction_is_announced_before_the_grant(pair: FakeWorld) -> None:
    pair.routes.place("image", IMAGE_MIB)
    hold_foreign_memory(pair, 9000)
    await pair.start()

    await pair.arbiter.acquire(client(), "voice", AcquireOptions())

    event_names = [type(event).__name__ for event in pair.events]
    assert event_names.index("EvictionOccurred") < event_names.index("LoadFinished") < event_names.index("LeaseGranted")
    report = reports(pair)[0]
    assert (report.trigger, report.method, report.freed_mib, report.verified) == ("voice", "http", IMAGE_MIB, True)


# -- waiting -----------------------------------------------------------------------------------------------------------


async def test_second_request_waits_until_the_first_lease_ends(pair: FakeWorld) -> None:
    await pair.start()
    first = await pair.arbiter.acquire(client(1), "image", AcquireOptions())
    second = asyncio.create_task(pair.arbiter.acquire(client(2), "voice", AcquireOptions(timeout_sec=100)))
    await pair.clock.sleep(1.0)

    (waiting,) = pair.arbiter.status().queue
    assert (waiting.consumer, waiting.position) == ("voice", 1)
    assert waiting.waiting_for.startswith(f"device 0 is leased to image (lease {first.lease.id[:6]}, ")
    await pair.arbiter.release(first.lease.id)
    assert (await second).lease.consumer == "voice"
    assert pair.arbiter.status().queue == ()


async def test_queue_order_is_priority_then_arrival() -> None:
    world = FakeWorld([routed(name, 2000) for name in "abcd"], scheduler=SchedulerSettings(concurrent_leases=1))
    await world.start()
    holder = await world.arbiter.acquire(client(1), "a", AcquireOptions())
    order: list[str] = []

    async def wait_for(name: str, priority: int) -> None:
        grant = await world.arbiter.acquire(client(2), name, AcquireOptions(timeout_sec=900, priority=priority))
        order.append(name)
        await world.arbiter.release(grant.lease.id)

    waiters = [asyncio.create_task(wait_for(name, priority)) for name, priority in (("b", 0), ("c", 0), ("d", 10))]
    await world.clock.sleep(1.0)
    await world.arbiter.release(holder.lease.id)
    await asyncio.gather(*waiters)

    assert order == ["d", "b", "c"]


async def test_low_priority_request_is_served_eventually() -> None:
    world = FakeWorld(
        [routed("low", 2000), routed("high", 2000)], scheduler=SchedulerSettings(aging_sec=10.0, concurrent_leases=1)
    )
    await world.start()
    low_served = asyncio.Event()

    async def low() -> None:
        grant = await world.arbiter.acquire(client(1), "low", AcquireOptions(timeout_sec=9000, priority=-100))
        low_served.set()
        await world.arbiter.release(grant.lease.id)

    async def stream(number: int) -> None:
        while not low_served.is_set():
            grant = await world.arbiter.acquire(client(number), "high", AcquireOptions(timeout_sec=9000, priority=100))
            await world.clock.sleep(1.0)
            await world.arbiter.release(grant.lease.id)

    began = world.clock.monotonic()
    await asyncio.gather(stream(2), stream(3), stream(4), low())

    assert world.clock.monotonic() - began < 40, "200 points are 20 s of waiting here"


async def test_refused_request_with_timeout_zero_changes_nothing(pair: FakeWorld) -> None:
    pair.routes.place("image", IMAGE_MIB)
    hold_foreign_memory(pair, 9000)
    await pair.start()

    with pytest.raises(Busy, match="loaded first"):
        await pair.arbiter.acquire(client(), "voice", AcquireOptions(timeout_sec=0))
    await pair.clock.sleep(60)

    assert (pair.routes.called("unload"), pair.routes.called("load")) == ([], [])
    assert (await pair.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=0))).lease.consumer == "image"


async def test_timeout_error_names_the_reason_for_waiting(pair: FakeWorld) -> None:
    await pair.start()
    await pair.arbiter.acquire(client(1), "image", AcquireOptions())

    with pytest.raises(TimedOut, match="timed out after 3 s waiting for voice: device 0 is leased to image"):
        await pair.arbiter.acquire(client(2), "voice", AcquireOptions(timeout_sec=3))
    assert pair.arbiter.status().stats.refusals == 1


async def test_unlimited_leases_are_granted_while_memory_suffices() -> None:
    world = FakeWorld([routed(name, 6500) for name in "abcde"], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    for number, name in enumerate("abcd"[:3]):
        await world.arbiter.acquire(client(number), name, AcquireOptions(timeout_sec=60))

    assert len(world.arbiter.status().leases) == 3
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(9), "e", AcquireOptions(timeout_sec=60))
    assert world.routes.called("unload") == []


# -- immediate refusals ------------------------------------------------------------------------------------------------


async def test_invalid_requests_get_specific_errors(pair: FakeWorld) -> None:
    await pair.start()
    with pytest.raises(NoSuchConsumer, match="'unknown'"):
        await pair.arbiter.acquire(client(), "unknown", AcquireOptions())
    with pytest.raises(InvalidArgs, match="unit"):
        await pair.arbiter.acquire(client(), "image", AcquireOptions(lifetime=LeaseLifetime.UNIT))
    assert pair.arbiter.status().queue == ()


async def test_leases_of_one_user_are_limited() -> None:
    world = FakeWorld([routed("a", 100)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    for number in range(64):
        await world.arbiter.acquire(client(number), "a", AcquireOptions())

    with pytest.raises(LimitsExceeded, match="64"):
        await world.arbiter.acquire(client(99), "a", AcquireOptions())
    assert (await world.arbiter.acquire(client(99, uid=1001), "a", AcquireOptions())).lease.owner.uid == 1001


async def test_simultaneous_requests_are_limited_too() -> None:
    world = FakeWorld([routed("a", 100)], scheduler=SchedulerSettings(concurrent_leases=0))
    await world.start()
    asked = [world.arbiter.acquire(client(number), "a", AcquireOptions(timeout_sec=60)) for number in range(600)]

    results = await asyncio.gather(*asked, return_exceptions=True)

    assert sum(isinstance(one, LimitsExceeded) for one in results) == 600 - 64
    assert len(world.arbiter.status().leases) == 64


async def test_lease_that_cannot_be_saved_is_not_granted(pair: FakeWorld) -> None:
    await pair.start()
    pair.store.error = OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(HostError, match="No space left"):
        await pair.arbiter.acquire(client(), "voice", AcquireOptions())

    assert pair.arbiter.status().leases == ()
    assert not pair.named(LeaseGranted)


async def test_stop_refuses_waiting_and_new_requests_but_keeps_leases(pair: FakeWorld) -> None:
    await pair.start()
    await pair.arbiter.acquire(client(1), "image", AcquireOptions())
    waiting = asyncio.create_task(pair.arbiter.acquire(client(2), "voice", AcquireOptions(timeout_sec=100)))
    await pair.clock.sleep(1.0)

    await pair.arbiter.stop("gpumand is stopping")

    with pytest.raises(ShuttingDown):
        await waiting
    with pytest.raises(ShuttingDown):
        await pair.arbiter.acquire(client(3), "voice", AcquireOptions())
    assert len(pair.store.leases) == 1


# -- idempotency -------------------------------------------------------------------------------------------------------


async def test_same_token_of_the_same_owner_returns_the_same_lease(pair: FakeWorld) -> None:
    await pair.start()
    options = AcquireOptions(token="job-1", timeout_sec=60)
    first, second = await asyncio.gather(
        pair.arbiter.acquire(client(1), "voice", options), pair.arbiter.acquire(client(2), "voice", options)
    )
    third = await pair.arbiter.acquire(client(3), "voice", options)

    assert first.lease.id == second.lease.id == third.lease.id
    assert len(pair.arbiter.status().leases) == 1
    with pytest.raises(InvalidArgs, match="used for voice"):
        await pair.arbiter.acquire(client(3), "image", options)


async def test_second_call_with_a_token_continues_when_the_first_client_disconnects(pair: FakeWorld) -> None:
    pair.routes.consumer("voice").load_sec = 30.0
    await pair.start()
    options = AcquireOptions(token="job-1", timeout_sec=200)
    first = asyncio.create_task(pair.arbiter.acquire(client(1), "voice", options))
    second = asyncio.create_task(pair.arbiter.acquire(client(2), "voice", options))
    await pair.clock.sleep(1.0)
    await pair.arbiter.owner_vanished(":1.1")

    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await second).lease.owner.bus_name == ":1.2"


# -- acquiring from within a unit --------------------------------------------------------------------------------------


async def test_unit_that_acquires_itself_while_gpumand_starts_it_does_not_deadlock() -> None:
    world = FakeWorld([by_unit("job", 8000)])
    own = Owner(":1.50", 0, 50, "job.service", f"{1:032x}")
    world.units.units["job.service"].start_delay_sec = 5.0
    await world.start()

    clients = asyncio.create_task(world.arbiter.acquire(client(), "job", AcquireOptions(timeout_sec=60)))
    await world.clock.advance_until(lambda: ("start", "job.service") in world.units.calls)
    began = world.clock.monotonic()
    exec_start_pre = await world.arbiter.acquire(own, "job", AcquireOptions(lifetime=LeaseLifetime.UNIT))

    assert world.clock.monotonic() - began < 1, "it must not wait for a start that waits for this grant"
    assert (await clients).lease.id != exec_start_pre.lease.id
    assert len(world.arbiter.status().leases) == 2


async def test_manually_started_unit_that_acquires_itself_gets_memory_freed_first() -> None:
    world = FakeWorld([by_unit("job", 14000), routed("image", 20000)])
    world.routes.place("image", 20000)
    await world.start()
    world.units.become("job.service", UnitActivity.ACTIVATING)
    world.arbiter.record_unit(world.units.units["job.service"].state)
    own = Owner(":1.50", 0, 50, "job.service", f"{1:032x}")

    grant = await world.arbiter.acquire(own, "job", AcquireOptions(timeout_sec=60))

    assert grant.evicted == ("image",)
    assert ("start", "job.service") not in world.units.calls


async def test_load_of_a_disconnected_client_keeps_its_reservation() -> None:
    lazy = routed("lazy", 13000, load=None, health=None, busy=BusyRoute("/queue", ("/running",)))
    world = FakeWorld([lazy, routed("other", 13000)])
    await world.start()
    housekeeping = asyncio.create_task(world.housekeeping.run())
    world.routes.consumer("lazy").load_sec = 10.0
    world.routes.consumer("lazy").jobs = 1
    await world.arbiter.acquire(client(1), "lazy", AcquireOptions(lifetime=LeaseLifetime.CONNECTION))
    working = asyncio.create_task(world.routes.work(lazy))  # its server continues to load without the client
    await world.clock.sleep(1.0)

    await world.arbiter.owner_vanished(":1.1")
    acquiring = asyncio.create_task(world.arbiter.acquire(client(2), "other", AcquireOptions(timeout_sec=100)))
    await working
    world.routes.consumer("lazy").jobs = 0
    grant = await acquiring

    assert grant.evicted == ("lazy",)
    assert world.routes.consumer("other").ooms == world.routes.consumer("lazy").ooms == 0
    housekeeping.cancel()
