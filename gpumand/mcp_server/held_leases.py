"""The leases of one MCP server: each belongs to a connection of this process, so that it ends with the process."""

from __future__ import annotations

import asyncio

from gpumand.client.held_lease import Held, hold
from gpumand.client.lease_options import LeaseOptions


class HeldLeases:
    """Acquires leases and keeps them until they are released, or until the process ends.

    Args:
        bus: "system", "session", or a D-Bus address.
    """

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._held: dict[str, Held] = {}

    @property
    def leases(self) -> list[Held]:
        """The leases in the order of their grants; one that ended for another reason stays until the next request."""
        return list(self._held.values())

    def get(self, lease: str) -> Held | None:
        """The lease with this id; None if this process does not hold it."""
        return self._held.get(lease)

    async def acquire(self, consumer: str, options: LeaseOptions) -> Held:
        """Acquire a lease. Cancelling the call withdraws the request. Raises the errors of ``gpumand.client.lease``."""
        self._held = {lease: one for lease, one in self._held.items() if not one.ended.is_set()}
        # A request that waits for a lease of the same agent would wait for ever: the daemon refuses it if it knows.
        held = await hold(consumer, within=list(self._held), bus=self._bus, **options)
        self._held[held.id] = held
        return held

    async def release(self, lease: str) -> bool:
        """Release a lease of this process.

        Returns:
            Whether this process held it.
        """
        held = self._held.pop(lease, None)
        if held is None:
            return False
        await held.release()
        return True

    async def release_all(self) -> None:
        """Release all leases, at the end of the process."""
        held, self._held = list(self._held.values()), {}
        await asyncio.gather(*(one.release() for one in held), return_exceptions=True)
