"""Two consumers that exclude each other, and requests within a lease."""

from __future__ import annotations

from gpumand.domain.consumer import Policy, SchedulerSettings
from gpumand.domain.lease import Lease, LeaseLifetime
from gpumand.domain.request import AcquireOptions
from gpumand.testing.world import FakeWorld, client
from tests.unit.arbiter.arbiter_setup import routed

LONG = AcquireOptions(timeout_sec=3600)
CONNECTION = AcquireOptions(timeout_sec=3600, lifetime=LeaseLifetime.CONNECTION)


def make_world(**settings: object) -> FakeWorld:
    """Consumers a and b exclude each other; small fits beside either of them."""
    return FakeWorld(
        [routed("a", 14000), routed("b", 14000), routed("small", 2000)],
        scheduler=SchedulerSettings(**settings),  # type: ignore[arg-type]
    )


async def started_world(policy: Policy) -> FakeWorld:
    made = make_world(policy=policy)
    await made.start()
    return made


async def acquire(world: FakeWorld, number: int, name: str, options: AcquireOptions = CONNECTION) -> Lease:
    return (await world.arbiter.acquire(client(number), name, options)).lease


def within(*leases: Lease, **more: object) -> AcquireOptions:
    return AcquireOptions(timeout_sec=3600, within=tuple(one.id for one in leases), **more)  # type: ignore[arg-type]


def yielding(lease: Lease, **more: object) -> AcquireOptions:
    return AcquireOptions(timeout_sec=3600, yield_lease=lease.id, **more)  # type: ignore[arg-type]
