"""Servers in units for tests of loads."""

from __future__ import annotations

from typing import Any

from gpumand.domain.consumer import ConsumerSpec, EvictionMethod, HealthRoute, UnitActivity
from gpumand.testing.world import FakeWorld
from tests.unit.arbiter.arbiter_setup import by_unit

BOTH = (EvictionMethod.HTTP, EvictionMethod.UNIT_STOP)


def served(name: str, mib: int, **more: Any) -> ConsumerSpec:
    """A unit with a server that reports its health, and no load route."""
    health = {"url": "http://127.0.0.1:1", "health": HealthRoute("/health")}
    return by_unit(name, mib, **(health | more))


def run_server(world: FakeWorld, name: str, mib: int) -> None:
    """Let the unit of a consumer run with its model."""
    world.units.become(f"{name}.service", UnitActivity.ACTIVE)
    world.routes.place(name, mib)


def restart_with(world: FakeWorld, name: str, mib: int) -> None:
    """Let a start of the unit load the model, and a stop end its server."""
    unit = world.units.units[f"{name}.service"]

    def started() -> None:
        world.routes.consumer(name).running = True
        world.routes.place(name, mib)

    unit.started, unit.stopped = started, lambda: world.routes.die(name)
