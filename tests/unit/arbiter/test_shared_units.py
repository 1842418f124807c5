"""Several consumers in one unit: evicted one by one by their routes, and the unit is stopped only for all of them."""

from __future__ import annotations

import asyncio

import pytest

from gpumand.domain.consumer import BusyRoute, ConsumerSpec, EvictionMethod
from gpumand.domain.errors import EvictionFailed, LoadFailed, TimedOut
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import READ_SEC, kill_consumer, residency, routed

UNIT, PID = "router.service", 500
BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)
STOP = (EvictionMethod.UNIT_STOP,)


def model(name: str, mib: int, **more: object) -> ConsumerSpec:
    """A model behind the router: loaded and unloaded by routes, in a unit that it shares."""
    return routed(name, mib, **({"unit": UNIT, "evict": BOTH} | more))


class Router:
    """One process that holds the memory of all its models, as the driver shows it."""

    def __init__(self, world: FakeWorld, *names: str) -> None:
        self.world, self.names = world, names

    def hold(self, pid: int, mib: int | None, *, device: int = 0, consumer: str = "", name: str = "") -> None:
        if consumer in self.names:
            self.update()
        else:
            self.world.vram.hold(pid, mib, device=device, consumer=consumer, name=name)

    def release(self, pid: int, *, device: int | None = None) -> None:
        self.world.vram.release(pid, device=device)
        self.update()

    def update(self) -> None:
        held = sum(self.world.routes.consumer(name).held_mib for name in self.names)
        self.world.vram.hold(PID, held, unit=UNIT, name="llama-server", shared=self.names)
        if not held:
            self.world.vram.release(PID)


async def make_world(*specs: ConsumerSpec, loaded: tuple[str, ...] = ("a", "b")) -> FakeWorld:
    world = FakeWorld(specs)
    world.vram.read_sec = READ_SEC
    names = tuple(one.name for one in specs if one.unit == UNIT)
    world.routes.vram = Router(world, *names)

    def stop() -> None:
        for name in names:
            kill_consumer(world, name)
        world.vram.release(PID)

    def start() -> None:
        for name in names:
            world.routes.consumer(name).running = True

    world.units.units[UNIT].stopped, world.units.units[UNIT].started = stop, start
    await world.units.start(UNIT, 10)
    for name in loaded:
        world.routes.place(name, world.settings.consumers[name].vram_resident_mib)
    world.units.calls.clear()
    await world.start()
    await world.arbiter.watch_units()
    return world


async def test_memory_is_shown_as_shared_and_not_as_foreign() -> None:
    world = await make_world(model("a", 6000), model("b", 8000))

    status = world.arbiter.status()

    a = world.arbiter.consumer_status("a")
    assert (a.used_mib, a.shared_with, a.shared_mib) == (None, ("b",), 14000)
    assert (status.devices[0].foreign_mib, status.devices[0].foreign) == (0, ())


async def test_model_is_evicted_by_its_route_while_the_other_is_leased() -> None:
    world = await make_world(model("a", 6000), model("b", 8000), routed("x", 14000))
    await world.arbiter.acquire(client(1), "b", AcquireOptions())
    world.settings = world.settings

    plan = await world.arbiter.plan(client(2), "x", AcquireOptions())
    assert plan.message
    await world.arbiter.evict("a", False, 20.0)

    assert (residency(world, "a"), residency(world, "b")) == ("unloaded", "resident")
    assert world.units.calls == []


@pytest.mark.parametrize("use", ["leased", "pinned", "busy"])
async def test_unit_is_not_stopped_while_another_consumer_in_it_is_used(use: str) -> None:
    options: dict[str, dict[str, object]] = {"busy": {"busy": BusyRoute("/slots", ("/n",))}, "pinned": {"pinned": True}}
    more = options.get(use, {})
    world = await make_world(model("a", 6000, evict=STOP), model("b", 8000, **more))
    if use == "leased":
        await world.arbiter.acquire(client(1), "b", AcquireOptions())
    if use == "busy":
        world.routes.consumer("b").jobs = 1
        await world.arbiter.busy_probes.probe("b")

    with pytest.raises(EvictionFailed, match=rf"router\.service also serves b, which is {use}"):
        await world.arbiter.evict("a", True, 20.0)

    assert world.units.calls == []
    assert residency(world, "b") == "resident"


async def test_request_waits_until_the_other_consumer_in_the_unit_is_released() -> None:
    world = await make_world(model("a", 6000, evict=STOP), model("b", 4000, evict=STOP), by_route := routed("x", 20000))
    lease = (await world.arbiter.acquire(client(1), "b", AcquireOptions())).lease
    with pytest.raises(TimedOut):
        await world.arbiter.acquire(client(2), by_route.name, AcquireOptions())
    assert world.units.calls == []

    waiting = asyncio.create_task(world.arbiter.acquire(client(2), by_route.name, AcquireOptions(timeout_sec=60)))
    await world.clock.sleep(2.0)
    await world.arbiter.release(lease.id)
    await waiting

    assert world.units.calls.count(("stop", UNIT)) == 1
    assert (residency(world, "a"), residency(world, "b")) == ("unloaded", "unloaded")
    assert world.routes.consumer("x").ooms == 0


async def test_no_lease_is_granted_on_a_consumer_whose_unit_is_being_stopped() -> None:
    world = await make_world(model("a", 6000, evict=STOP), model("b", 4000, evict=STOP))
    world.units.units[UNIT].stop_delay_sec = 5.0
    evicting = asyncio.create_task(world.arbiter.evict("a", False, 20.0))
    await world.clock.sleep(1.0)

    grant = await world.arbiter.acquire(client(2), "b", AcquireOptions(timeout_sec=60))

    await evicting
    assert grant.loaded, "its unit was started again"
    assert world.units.calls == [("stop", UNIT), ("start", UNIT)]


@pytest.mark.parametrize("evict", [BOTH, STOP])
async def test_others_in_the_unit_are_asked_whether_they_are_busy_before_it_is_stopped(
    evict: tuple[EvictionMethod, ...],
) -> None:
    busy = BusyRoute("/slots", ("/n",))
    world = await make_world(model("a", 8000, evict=evict), model("b", 8000, busy=busy), routed("x", 14000))
    world.routes.consumer("a").lies = True
    world.routes.consumer("b").jobs = 1

    with pytest.raises((EvictionFailed, TimedOut), match=r"b is busy|b, which is busy"):
        await world.arbiter.acquire(client(), "x", AcquireOptions(timeout_sec=30))

    assert world.units.calls == []


@pytest.mark.parametrize("force", [False, True])
async def test_manual_eviction_asks_all_consumers_in_the_unit(force: bool) -> None:
    world = await make_world(model("a", 8000, evict=STOP), model("b", 8000, busy=BusyRoute("/slots", ("/n",))))
    world.routes.consumer("b").jobs = 1

    with pytest.raises(EvictionFailed, match=r"router\.service also serves b, which is busy"):
        await world.arbiter.evict("a", force, 20.0)

    assert world.units.calls == []


async def test_work_that_another_consumer_begins_during_a_forced_eviction_is_not_cut() -> None:
    world = await make_world(model("a", 8000), model("b", 8000, busy=BusyRoute("/slots", ("/n",))))
    world.routes.consumer("a").lies = True
    evicting = asyncio.create_task(world.arbiter.evict("a", True, 20.0))
    await world.clock.sleep(3.0)
    world.routes.consumer("b").jobs = 1

    with pytest.raises(EvictionFailed, match=r"router\.service also serves b, which is busy"):
        await evicting

    assert world.units.calls == []


@pytest.mark.parametrize("busy", [BusyRoute("/slots", ("/n",)), None])
async def test_others_in_the_unit_are_asked_before_it_is_restarted_for_a_load(busy: BusyRoute | None) -> None:
    """One without a busy check is known to be at work once it has put an unload off for its clients."""
    world = await make_world(model("a", 8000), model("b", 8000, busy=busy), loaded=("b",))
    world.arbiter.state.ledger.update("b", unload_deferred=busy is None)
    a = world.routes.consumer("a")
    a.mib, a.says_loaded = 0, True  # it answers that it is loaded, and holds nothing
    world.vram.attributable |= {"a", "b"}
    world.routes.vram = None
    world.vram.release(PID)
    world.vram.hold(501, 8000, consumer="b")
    world.routes.consumer("b").jobs = 1

    with pytest.raises(LoadFailed, match=r"router\.service is not restarted, since b runs in it and is busy"):
        await world.arbiter.acquire(client(), "a", AcquireOptions(timeout_sec=60))

    assert world.units.calls == []
