"""The port ``FleetHost``: the operations of a host that a router uses, on this host or through the agent of another."""

from __future__ import annotations

from typing import Any, Protocol

from gpumand.fleet.calls import AcquireCall, DrainCall, LoadCall, PlanCall
from gpumand.fleet.lease_streams import LeaseHandle


class FleetHost(Protocol):
    """A host of the fleet. Every method raises GpumandError, and HostLost if the host cannot be reached."""

    async def acquire(self, call: AcquireCall) -> LeaseHandle:
        """Acquire a lease there; it ends when it is released, or when one of both sides is gone."""

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """What a request would do there, as ``Plan`` answers it."""

    async def load(self, call: LoadCall) -> dict[str, Any]:
        """Make a consumer resident there, without a lease."""

    async def drain(self, call: DrainCall) -> dict[str, Any]:
        """Take the host out of the placement, or bring it back."""
