"""Takes a lease for a moment, so that the installation is known to work from the request to the release."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.client.client import Client
from gpumand.client.errors import GpumandError
from gpumand.client.values import Plan

TTL_SEC = 30.0
"""If this process is killed before the release, the lease ends by itself soon."""

TIMEOUT_SEC = 120.0
REASON = "gpumanctl setup"


@dataclass(frozen=True, slots=True)
class Proposal:
    """The lease that could be taken.

    Attributes:
        consumer: name of the consumer; "" if no request would be granted.
        plan: what it would do.
    """

    consumer: str
    plan: Plan | None = None

    @property
    def unloads(self) -> tuple[str, ...]:
        """Consumers that would be unloaded for it."""
        return tuple(one.consumer for one in self.plan.evictions) if self.plan else ()

    @property
    def disturbs_nothing(self) -> bool:
        """Whether nothing is unloaded for it."""
        return bool(self.consumer) and not self.unloads


async def choose(bus: str) -> Proposal:
    """The consumer whose lease changes least: a resident one, else one that fits, else one that needs evictions.

    Raises:
        GpumandError: gpumand cannot be reached.
    """
    async with Client(bus) as client:
        status = await client.status()
        plans = [await client.plan(one.name) for one in status.consumers]
    granted = [one for one in plans if one.verdict == "grant"]
    best = min(granted, key=lambda one: (not one.resident, len(one.evictions), one.need_mib or 0), default=None)
    return Proposal(best.consumer, best) if best is not None else Proposal("")


async def take(bus: str, consumer: str) -> str:
    """Acquire a lease and release it. Returns the device. Raises GpumandError."""
    async with Client(bus) as client:
        grant = await client.acquire(consumer, ttl_sec=TTL_SEC, timeout_sec=TIMEOUT_SEC, reason=REASON)
        await client.release(grant.id)
    return grant.device


def is_leased(error: GpumandError) -> bool:
    """Whether the request failed because others use the GPU, which is no fault of the installation."""
    from gpumand.client.errors import Busy, TimedOut

    return isinstance(error, Busy | TimedOut)
