"""Shared helpers of the arbiter tests: typical consumers, simulated incidents, and queries of the result."""

from __future__ import annotations

from gpumand.domain import budget
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route
from gpumand.domain.events import EvictionDeferred, EvictionFailed, EvictionOccurred, EvictionReport
from gpumand.testing.world import FakeWorld

READ_SEC = 0.02
"""Duration of a real driver's reading in seconds; tests use it so that other events happen during a reading."""


def routed(name: str, mib: int, **more: object) -> ConsumerSpec:
    """A service with load, unload and health routes, and no unit."""
    defaults: dict[str, object] = {
        "url": f"http://127.0.0.1/{name}",
        "health": HealthRoute("/health", loaded="/loaded"),
        "load": Route("/load", timeout_sec=600.0),
        "unload": Route("/unload"),
        "evict": (EvictionMethod.HTTP,),
    }
    return ConsumerSpec(name, mib, **(defaults | more))  # type: ignore[arg-type]


def by_unit(name: str, mib: int, **more: object) -> ConsumerSpec:
    """A service without HTTP routes, controlled by its unit only."""
    return ConsumerSpec(name, mib, unit=f"{name}.service", evict=(EvictionMethod.UNIT_STOP,), **more)  # type: ignore[arg-type]


async def at_work(*specs: ConsumerSpec) -> FakeWorld:
    """A started world with all background tasks, whose readings take as long as those of a real driver."""
    world = FakeWorld(specs)
    world.vram.read_sec = READ_SEC
    await world.start()
    await world.arbiter.watch_units()
    world.arbiter.scheduler.background.spawn(world.housekeeping.run())
    return world


def hold_foreign_memory(world: FakeWorld, mib: int) -> None:
    """Let a foreign process hold memory."""
    world.vram.hold(1, mib, name="firefox", unit="session-1.scope")


def kill_consumer(world: FakeWorld, name: str) -> None:
    """End a consumer's processes and free their memory."""
    consumer = world.routes.consumer(name)
    consumer.running, consumer.loaded, consumer.held_mib = False, False, 0
    world.vram.release(consumer.pid)


def reports(
    world: FakeWorld, kind: type[EvictionOccurred | EvictionFailed | EvictionDeferred] = EvictionOccurred
) -> list[EvictionReport]:
    return [event.report for event in world.named(kind)]


def residency(world: FakeWorld, name: str) -> str:
    return world.arbiter.consumer_status(name).residency


def lazy(name: str, mib: int, **more: object) -> ConsumerSpec:
    """A service that loads on its first request and does not report whether it is loaded."""
    return routed(name, mib, **({"load": None, "health": None} | more))


def drop_model(world: FakeWorld, name: str) -> None:
    """Let a consumer unload by itself, as after a keep-alive timeout."""
    consumer = world.routes.consumer(name)
    consumer.loaded, consumer.held_mib = False, 0
    world.vram.release(consumer.pid)


async def lose_last_device(world: FakeWorld) -> None:
    """Remove the last device with everything on it, and take a reading."""
    gone = len(world.vram._devices) - 1  # no public way: a FakeVram's devices otherwise stay
    world.vram._devices.pop()
    world.vram._held[:] = [held for held in world.vram._held if held.device != gone]
    await world.arbiter.state.sample()


def reserved(world: FakeWorld, device: int = 0) -> dict[str, int]:
    """MiB reserved on a device in addition to its readings, by consumer, without zeros."""
    by_consumer = budget.reserved_by_consumer(world.arbiter.state.view(), device)
    return {name: mib for name, mib in by_consumer.items() if mib}


def ooms(world: FakeWorld) -> int:
    """Number of loads that ran out of memory."""
    return sum(consumer.ooms for consumer in world.routes.consumers.values())
