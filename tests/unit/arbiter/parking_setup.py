"""Servers that park, and a world with host RAM for them."""

from __future__ import annotations

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, SchedulerSettings, UnitActivity
from gpumand.testing.world import FakeWorld
from tests.unit.arbiter.arbiter_setup import routed

HTTP, UNIT_STOP = EvictionMethod.HTTP, EvictionMethod.UNIT_STOP
RESERVE_MIB = SchedulerSettings().host_ram_reserve_mib


def sleeper(name: str, mib: int, **more: object) -> ConsumerSpec:
    """A server in a unit, with routes that park and wake it."""
    defaults: dict[str, object] = {"unit": f"{name}.service", "evict": (HTTP, UNIT_STOP), "parks": True}
    return routed(name, mib, **(defaults | {"residual_mib": 500} | more))


def make_world(*specs: ConsumerSpec, ram_mib: int | None = None, **more: object) -> FakeWorld:
    """A world with ``ram_mib`` of host RAM above the reserve; the units of its consumers run."""
    world = FakeWorld(specs, **more)  # type: ignore[arg-type]
    if ram_mib is not None:
        world.memory.mib = ram_mib + RESERVE_MIB
    for spec in specs:
        if not spec.parks:
            continue
        fake = world.routes.consumer(spec.name)
        fake.residual_mib, fake.parks_mib = spec.residual_mib, spec.vram_resident_mib
        if spec.unit:
            unit = world.units.units[spec.unit]
            unit.activity, unit.invocation = UnitActivity.ACTIVE, 1
            unit.stopped = lambda name=spec.name: world.routes.die(name)  # type: ignore[misc]
            unit.started = lambda name=spec.name: mark_running(world, name)  # type: ignore[misc]
    return world


def mark_running(world: FakeWorld, name: str) -> None:
    world.routes.consumer(name).running = True
