"""What arbiter tests are made of: consumers of the usual kinds, what happens to them, and looks at the outcome."""

from __future__ import annotations

from gpumand.domain import budget
from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, Route
from gpumand.domain.events import EvictionOccurred, EvictionReport
from gpumand.testing.world import FakeWorld

READ_SEC = 0.02
"""How long a real driver's reading takes: whatever can come between comes between."""


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
    """A service that is nothing but its unit."""
    return ConsumerSpec(name, mib, unit=f"{name}.service", evict=(EvictionMethod.UNIT_STOP,), **more)  # type: ignore[arg-type]


def occupy(world: FakeWorld, mib: int) -> None:
    """Let a foreign process hold memory."""
    world.vram.hold(1, mib, name="firefox", unit="session-1.scope")


def die(world: FakeWorld, name: str) -> None:
    """Let a consumer's processes be gone."""
    consumer = world.routes.consumer(name)
    consumer.running, consumer.loaded, consumer.held_mib = False, False, 0
    world.vram.release(consumer.pid)


def reports(world: FakeWorld, kind: type = EvictionOccurred) -> list[EvictionReport]:
    return [event.report for event in world.events if isinstance(event, kind)]


def residency(world: FakeWorld, name: str) -> str:
    return world.arbiter.consumer_status(name).residency


def lazy(name: str, mib: int, **more: object) -> ConsumerSpec:
    """A service that loads on its first request and does not say whether it has."""
    return routed(name, mib, **({"load": None, "health": None} | more))


def drop_model(world: FakeWorld, name: str) -> None:
    """Let a consumer unload by itself, as with a keep-alive that has run out."""
    consumer = world.routes.consumer(name)
    consumer.loaded, consumer.held_mib = False, 0
    world.vram.release(consumer.pid)


async def lose_last_device(world: FakeWorld) -> None:
    """Let the last device fall off the bus with all that was on it, and have that noticed."""
    gone = len(world.vram._devices) - 1  # no public way: a FakeVram's devices otherwise stay
    world.vram._devices.pop()
    world.vram._held[:] = [held for held in world.vram._held if held.device != gone]
    await world.arbiter.arbiter_state.sample()


def reserved(world: FakeWorld, device: int = 0) -> dict[str, int]:
    """MiB reserved on a device beyond what its figures show, by consumer; those with nothing left out."""
    by_consumer = budget.reserved_by_consumer(world.arbiter.arbiter_state.view(), device)
    return {name: mib for name, mib in by_consumer.items() if mib}


def ooms(world: FakeWorld) -> int:
    """Loads that met less memory than they had been told of."""
    return sum(consumer.ooms for consumer in world.routes.consumers.values())
