"""Shared helpers of the tests of leases without a consumer."""

from __future__ import annotations

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.lease import LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

TOTAL_MIB = 24564
SHARED = SchedulerSettings(concurrent_leases=0)


def vram(mib: int, **more: object) -> AcquireOptions:
    return AcquireOptions(**({"vram_mib": mib, "timeout_sec": 60, "lifetime": LeaseLifetime.CONNECTION} | more))  # type: ignore[arg-type]


ALL = AcquireOptions(whole_device=True, timeout_sec=60, lifetime=LeaseLifetime.CONNECTION)


def two_consumers() -> FakeWorld:
    """A world with two consumers that fit side by side."""
    return FakeWorld([routed("a", 10000), routed("b", 9000)], scheduler=SHARED)


async def load(world: FakeWorld, *names: str) -> None:
    for name in names:
        await world.arbiter.load(name, "", 60)


def reserved_mib(world: FakeWorld, device: int = 0) -> int | None:
    return world.arbiter.status().devices[device].reserved_mib


def foreign_mib(world: FakeWorld) -> int | None:
    return world.arbiter.status().devices[0].foreign_mib


def pid_of(number: int) -> int:
    return client(number).pid


async def read(world: FakeWorld) -> None:
    await world.arbiter.state.sample()
