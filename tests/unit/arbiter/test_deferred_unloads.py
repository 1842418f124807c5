"""Unloads that a server puts off for its clients' requests: another victim is evicted wherever one suffices."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from gpumand.arbiter.busy_probes import BusyProbes
from gpumand.arbiter.deferred_unloads import DeferredUnload
from gpumand.domain.consumer import BusyReport, BusyRoute, ConsumerSpec, EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import EvictionFailed, TimedOut
from gpumand.domain.events import EvictionDeferred
from gpumand.domain.events import EvictionFailed as EvictionFailedEvent
from gpumand.domain.planning import decide
from gpumand.domain.request import AcquireOptions, Grant
from gpumand.domain.view import View
from gpumand.testing.routes import FakeConsumer
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, ooms, reports, residency, routed
from tests.unit.arbiter.test_busy import housekeeping

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
GRACE_SEC, SETTLE_SEC = 60.0, 10.0


async def host(
    *specs: ConsumerSpec, mib: int = 9000, total_mib: tuple[int, ...] = (24564,), **old: object
) -> FakeWorld:
    """A host on which "old", with a client, accepts every unload and frees nothing."""
    first = routed("old", mib, unit="old.service", evict=BOTH, **old)
    settings = SchedulerSettings(concurrent_leases=0, settle_timeout_sec=SETTLE_SEC)
    world = FakeWorld([first, *specs], scheduler=settings, total_mib=total_mib)
    world.vram.read_sec = READ_SEC
    world.units.become("old.service", UnitActivity.ACTIVE)
    server = world.routes.place("old", mib)
    server.lies, server.jobs = True, 1
    world.units.units["old.service"].stopped = lambda: world.routes.die("old")
    await world.start()
    return world


async def used(world: FakeWorld, name: str) -> None:
    """Load a consumer and use it once, so that it is the most recently used one."""
    grant = await world.arbiter.acquire(client(7), name, AcquireOptions(timeout_sec=60))
    await world.arbiter.release(grant.lease.id)


async def unload_of_an_idle_server() -> tuple[FakeWorld, FakeConsumer, asyncio.Task[Grant]]:
    """A request for llm, for which the unload of "old" has begun, the busy check of which said idle."""
    world = await host(routed("recent", 9000), routed("llm", 9000), busy=BusyRoute("/queue", ("/running",)))
    await used(world, "recent")
    server = world.routes.consumer("old")
    server.jobs = 0
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20)))
    await world.clock.sleep(1.0)
    return world, server, acquiring


async def test_request_of_20_s_takes_the_free_victim_instead_of_waiting_for_the_busy_one() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000))
    await used(world, "recent")
    began = world.clock.monotonic()

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("recent",)
    assert world.clock.monotonic() - began < SETTLE_SEC
    assert world.routes.called("unload") == ["old", "recent"]
    assert reports(world, EvictionFailedEvent) == []
    assert world.units.units["old.service"].activity is UnitActivity.ACTIVE
    status = world.arbiter.consumer_status("old")
    assert (status.busy, status.error) == (True, "")
    assert ooms(world) == 0


async def test_unload_that_is_passed_over_is_announced_with_what_is_known_and_is_no_failure() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000))
    await used(world, "recent")

    await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    (deferred,) = reports(world, EvictionDeferred)
    assert (deferred.consumer, deferred.trigger, deferred.method) == ("old", "llm", "http")
    assert "has freed 0 of 9000 MiB in 3 s, while 1 client is connected" in deferred.error
    assert "its unload does not work" in deferred.error
    assert reports(world, EvictionFailedEvent) == []
    status = world.arbiter.consumer_status("old")
    assert status.doing == "busy (1 client connection): it accepted an unload and freed nothing"


async def test_busy_service_that_reports_its_jobs_is_not_suspected() -> None:
    world, server, acquiring = await unload_of_an_idle_server()
    server.jobs = 2
    await acquiring

    (deferred,) = reports(world, EvictionDeferred)
    assert deferred.error.endswith("while it reports 2 jobs")


async def test_request_and_status_say_what_a_late_unload_waits_for() -> None:
    world = await host(routed("llm", 9000), routed("image", 9000), mib=18000)
    async with housekeeping(world):
        requests = [
            asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=100))),
            asyncio.create_task(world.arbiter.acquire(client(8), "image", AcquireOptions(timeout_sec=30))),
        ]
        await world.clock.sleep(5.0)
        assert next(one.waiting_for for one in world.arbiter.status().queue) == "memory is being freed for it"
        await world.clock.sleep(10.0)

        unfreed = "accepted, nothing freed yet, 1 client is connected"
        waiting = [one.waiting_for for one in world.arbiter.status().queue]
        assert waiting == [
            f"memory is being freed for it (unload of old: {unfreed})",
            f"device 0 is busy evicting old (unload {unfreed})",
        ]
        assert world.arbiter.consumer_status("old").doing.endswith(f"s: {unfreed}")
        (deferred,) = reports(world, EvictionDeferred)
        assert "has freed 0 of 18000 MiB in 10 s" in deferred.error
        with pytest.raises(TimedOut, match="1 client is connected"):
            await requests[1]
        assert (await requests[0]).evicted == ("old",)

    assert len(reports(world, EvictionDeferred)) == 1
    assert world.arbiter.consumer_status("old").doing == ""


async def test_liar_without_a_unit_fails_with_a_reason_when_its_grace_period_is_over() -> None:
    liar = routed("old", 18000, evict=(EvictionMethod.HTTP,), busy_grace_sec=20.0)
    world = FakeWorld([liar, routed("llm", 9000)], scheduler=SchedulerSettings(settle_timeout_sec=SETTLE_SEC))
    world.vram.read_sec = READ_SEC
    server = world.routes.place("old", 18000)
    server.lies, server.jobs = True, 1
    await world.start()

    with pytest.raises(EvictionFailed, match="old released no VRAM when evicted"):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=60))

    assert len(reports(world, EvictionDeferred)) == 1
    (failed,) = reports(world, EvictionFailedEvent)
    assert "0 of 18000 MiB became free within 20 s" in failed.error


async def test_next_request_does_not_ask_the_busy_one_again_while_its_client_stays() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000), routed("image", 9000))
    await used(world, "recent")
    await used(world, "llm")
    await world.clock.sleep(8.0)

    grant = await world.arbiter.acquire(client(), "image", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("llm",)
    assert world.routes.called("unload") == ["old", "recent", "llm"]


async def test_lease_that_ends_makes_another_plan_possible_while_the_busy_one_is_waited_for() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000))
    lease = (await world.arbiter.acquire(client(7), "recent", AcquireOptions())).lease
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=40)))
    await world.clock.sleep(25.0)
    assert not acquiring.done()

    await world.arbiter.release(lease.id)
    ended = world.clock.monotonic()

    assert (await acquiring).evicted == ("recent",)
    assert world.clock.monotonic() - ended < SETTLE_SEC


async def test_device_is_given_back_when_no_request_waits_any_more() -> None:
    world = await host(routed("llm", 9000), mib=18000)
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    await world.clock.sleep(2.0)

    assert world.arbiter.state.ledger.jobs == {}
    assert world.units.units["old.service"].activity is UnitActivity.ACTIVE


async def test_request_that_needs_the_busy_one_is_served_when_its_client_has_left() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000), routed("large", 20000))
    await used(world, "recent")
    await used(world, "llm")
    async with housekeeping(world):
        acquiring = asyncio.create_task(world.arbiter.acquire(client(), "large", AcquireOptions(timeout_sec=50)))
        await world.clock.sleep(5.0)
        (waiting,) = world.arbiter.status().queue
        assert "old is busy (1 client connection) and will be evicted in" in waiting.waiting_for

        server = world.routes.consumer("old")
        server.jobs, server.lies = 0, False
        left = world.clock.monotonic()

        assert sorted((await acquiring).evicted) == ["llm", "old"]
        assert world.clock.monotonic() - left < SETTLE_SEC
        assert {one.method for one in reports(world)} == {"http"}


async def test_clients_that_stay_delay_the_stop_of_its_unit_by_one_grace_period_in_all() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000), routed("large", 20000))
    await used(world, "recent")
    began = world.clock.monotonic()
    await used(world, "llm")
    async with housekeeping(world):
        await world.arbiter.acquire(client(), "large", AcquireOptions(timeout_sec=120))

    assert GRACE_SEC <= world.clock.monotonic() - began <= GRACE_SEC + 2 * SETTLE_SEC
    assert ("old", "unit-stop") in [(one.consumer, one.method) for one in reports(world)]


async def test_consumer_that_became_busy_after_its_busy_check_gives_way_as_well() -> None:
    world, server, acquiring = await unload_of_an_idle_server()
    assert world.routes.called("unload") == ["old"]
    server.jobs, began = 2, world.clock.monotonic()

    assert (await acquiring).evicted == ("recent",)
    assert world.clock.monotonic() - began < SETTLE_SEC
    assert world.units.units["old.service"].activity is UnitActivity.ACTIVE


async def test_request_goes_to_another_device_where_that_takes_no_busy_victim() -> None:
    world = await host(routed("other", 20000), routed("llm", 20000), mib=20000, total_mib=(24564, 24564))
    world.routes.where = lambda name: world.arbiter.state.consumer(name).devices
    lease = (await world.arbiter.acquire(client(7), "other", AcquireOptions())).lease
    assert lease.device == "1"
    acquiring = asyncio.create_task(world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20)))
    await world.clock.sleep(6.0)
    await world.arbiter.release(lease.id)

    grant = await acquiring

    assert (grant.evicted, grant.lease.device) == (("other",), "1")


async def test_slow_unload_without_clients_is_waited_for_as_before() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000))
    await used(world, "recent")
    server = world.routes.consumer("old")
    server.lies, server.jobs, server.early_unload, server.unload_sec = False, 0, True, 6.0

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("old",)
    assert residency(world, "recent") == "resident"


async def test_idle_consumer_that_puts_its_unload_off_keeps_no_device_from_requests() -> None:
    world = await host(routed("llm", 9000), idle_timeout_sec=30.0)
    await used(world, "old")
    async with housekeeping(world):
        await world.clock.sleep(36.0)
        assert "old" in world.routes.called("unload")

        assert world.arbiter.state.ledger.jobs == {}
        assert world.units.units["old.service"].activity is UnitActivity.ACTIVE


async def test_manual_eviction_gives_way_to_a_request_and_names_the_clients() -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000))
    await used(world, "recent")
    evicting = asyncio.create_task(world.arbiter.evict("old", False, 20.0))
    await world.clock.sleep(5.0)
    assert not evicting.done(), "it is waited for while no request waits"

    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("recent",)
    with pytest.raises(EvictionFailed, match=r"has freed 0 of 9000 MiB in [0-9]+ s, while 1 client is connected"):
        await evicting


async def test_manual_eviction_looks_once_at_all_requests_that_need_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = await host(routed("image", 9000, devices=("FAKE-1",)), total_mib=(24564, 24564))
    world.routes.consumer("image").device = 1
    held = await world.arbiter.acquire(client(7), "image", AcquireOptions(exclusive=True))
    waiting = [asyncio.create_task(world.arbiter.acquire(client(8), "image", AcquireOptions())) for _ in range(30)]
    looks: list[Requirement] = []

    def counted(view: View, requirement: Requirement) -> Decision:
        looks.append(requirement)
        return decide(view, requirement)

    monkeypatch.setattr("gpumand.arbiter.manual.decide", counted)
    evicting = asyncio.create_task(world.arbiter.evict("old", False, 20.0))
    await world.clock.sleep(8.0)
    assert len(world.arbiter.status().queue) == 30
    assert not evicting.done(), "requests for another device do not need it"
    assert 1 <= len(looks) <= 12

    await world.arbiter.release(held.lease.id)
    evicting.cancel()
    await asyncio.wait([evicting])
    for one in waiting:
        await world.arbiter.release((await one).lease.id)


@pytest.mark.parametrize(("early_mib", "seconds"), [(9000, 0.0), (2000, 3.0)], ids=["all of it", "a part, then all"])
async def test_memory_that_becomes_free_while_the_jobs_are_counted_is_not_put_off(
    monkeypatch: pytest.MonkeyPatch, early_mib: int, seconds: float
) -> None:
    world = await host(routed("recent", 9000), routed("llm", 9000))
    await used(world, "recent")
    server, probe = world.routes.consumer("old"), world.routes.probe_busy

    async def free_meanwhile(spec: ConsumerSpec) -> BusyReport:
        await world.clock.sleep(1.0)
        if server.held_mib == 9000:
            world.routes._hold(server, 9000 - early_mib)
            asyncio.get_running_loop().create_task(free_rest())
        return await probe(spec)

    async def free_rest() -> None:
        await world.clock.sleep(seconds)
        server.loaded = False
        world.routes._hold(server, 0)

    monkeypatch.setattr(type(world.routes), "probe_busy", lambda _, spec: free_meanwhile(spec))
    grant = await world.arbiter.acquire(client(), "llm", AcquireOptions(timeout_sec=20))

    assert grant.evicted == ("old",)
    assert world.arbiter.consumer_status("recent").residency == "resident"


async def test_memory_that_becomes_free_in_the_last_moment_keeps_the_unit_from_being_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = await host()
    server = world.routes.consumer("old")

    async def free_and_leave(_: ConsumerSpec) -> BusyReport:
        await world.clock.sleep(1.0)
        server.loaded = False
        world.routes._hold(server, 0)
        return BusyReport(0)

    monkeypatch.setattr(type(world.routes), "probe_busy", lambda _, spec: free_and_leave(spec))
    report = await world.arbiter.evict("old", False, 60.0)

    assert (report.method, report.freed_mib) == ("http", 9000)
    assert world.units.units["old.service"].activity is UnitActivity.ACTIVE


@pytest.mark.parametrize("left_sec", [1.0, 5.0])
async def test_grace_period_that_ends_while_the_clients_are_counted_is_over(
    monkeypatch: pytest.MonkeyPatch, left_sec: float
) -> None:
    world = await host()
    now, probe = world.clock.monotonic(), world.routes.probe_busy
    world.arbiter.state.ledger.update("old", unload_deferred=True, jobs=1, blocking_since=now - GRACE_SEC + left_sec)

    async def slow(spec: ConsumerSpec) -> BusyReport:
        await world.clock.sleep(2.0)
        return await probe(spec)

    monkeypatch.setattr(type(world.routes), "probe_busy", lambda _, spec: slow(spec))
    jobs = await BusyProbes(world.arbiter.state, world.routes).jobs_behind_unload("old")

    assert jobs == (1 if left_sec > 2.0 else 0)


async def random_demand(seed: int) -> tuple[int, float]:
    """Requests while clients of the servers come and go: how many timed out, and for how long all of them waited."""
    random, names = Random(seed), "abcde"
    world = FakeWorld(
        [routed(name, random.choice([7000, 9000, 11000])) for name in names],
        scheduler=SchedulerSettings(concurrent_leases=0),
    )
    world.vram.read_sec = READ_SEC
    await world.start()
    timed_out, waited_sec = 0, 0.0
    async with housekeeping(world):
        for number in range(12):
            for name in names:
                server = world.routes.consumer(name)
                server.jobs = 1 if random.random() < 0.4 else 0
                server.lies = bool(server.jobs)
            began = world.clock.monotonic()
            try:
                options = AcquireOptions(timeout_sec=20)
                grant = await world.arbiter.acquire(client(number + 1), random.choice(names), options)
                await world.clock.sleep(random.uniform(0.0, 5.0))
                await world.arbiter.release(grant.lease.id)
            except TimedOut:
                timed_out += 1
            waited_sec += world.clock.monotonic() - began
            await world.clock.sleep(random.uniform(0.0, 30.0))
    assert ooms(world) == 0
    return timed_out, waited_sec


def test_random_demand_is_served_no_worse_than_by_waiting_for_each_unload(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each in a loop of its own, which ends the jobs that are left.
    now = [asyncio.run(random_demand(seed)) for seed in range(12)]

    async def go_on(*_: object, **__: object) -> int:
        return 0

    monkeypatch.setattr(DeferredUnload, "jobs_in_the_way", go_on)
    before = [asyncio.run(random_demand(seed)) for seed in range(12)]

    assert sum(timed_out for timed_out, _ in now) < sum(timed_out for timed_out, _ in before)
    assert sum(waited_sec for _, waited_sec in now) < sum(waited_sec for _, waited_sec in before)
