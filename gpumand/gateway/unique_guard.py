"""Consumers with ``fleet = "unique"``: the gateway acquires them only while this host may have them loaded.

This is in front of all leases of the gateway, so it holds for every way in which a request finds its consumer: by its
model, by a path, by a listener of its own, over a WebSocket, and for pages that wake a service.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from gpumand.client.errors import NotRunning
from gpumand.client.values import Grant
from gpumand.domain.fleet import UNIQUE
from gpumand.gateway.fleet import Fleet
from gpumand.gateway.leases import Arbiter
from gpumand.gateway.refusals import AgentDown, FleetUnavailable
from gpumand.gateway.status_view import StatusView

RESTART_SEC = 5.0
"""How long a claim waits for an agent that does not run: a restart, as at an upgrade, must not refuse requests."""

RESTART_PAUSE_SEC = 0.2

ABSENT_SEC = 0.5
"""Pause between two status requests while gpumand is absent."""


class ResidentArbiter(Arbiter, Protocol):
    """gpumand, which also grants leases that need no wait."""

    async def acquire_resident(self, consumer: str, reason: str) -> Grant:
        """Acquire a lease if that needs no wait, no load and no eviction. Raises GpumandError."""


class UniqueGuard:
    """gpumand with the claims of the fleet in front; an ``Arbiter``.

    Args:
        arbiter: gpumand.
        fleet: asks gpumand-fleet of this host for the claims.
        status: says which consumers are unique.
    """

    def __init__(self, arbiter: ResidentArbiter, fleet: Fleet, status: StatusView) -> None:
        self._arbiter, self._fleet, self._status = arbiter, fleet, status
        self._returns: set[asyncio.Task[None]] = set()

    async def acquire(self, consumer: str, priority: int | None, reason: str) -> Grant:
        """See Arbiter; a unique consumer is claimed before. Raises GpumandError, Busy if another host has it."""
        return await self._claimed(consumer, lambda: self._arbiter.acquire(consumer, priority, reason))

    async def acquire_resident(self, consumer: str, reason: str) -> Grant:
        """See ResidentArbiter; a unique consumer is claimed before. Raises GpumandError."""
        # The caller watches jobs meanwhile, so this does not wait for gpumand, which could not grant a lease either.
        if self._fleet.is_enabled and await self._status.get() is None:
            raise NotRunning(f"gpumand gives no status, so that it is not known whether {consumer} may be loaded here")
        return await self._claimed(consumer, lambda: self._arbiter.acquire_resident(consumer, reason))

    async def _claimed(self, consumer: str, acquire: Callable[[], Awaitable[Grant]]) -> Grant:
        if not self._fleet.is_enabled or not await self._is_unique(consumer):
            return await acquire()
        await self._claim(consumer)
        grant = await acquire()
        try:
            # The request may have waited for long, in which this host can have lost the consumer.
            await self._claim(consumer)
        except BaseException:
            self._give_back(grant.id)
            raise
        return grant

    async def release(self, lease: str) -> None:
        """See Arbiter."""
        await self._arbiter.release(lease)

    async def renew(self, lease: str) -> None:
        """See Arbiter."""
        await self._arbiter.renew(lease)

    async def close(self) -> None:
        """Finish what is being given back."""
        await asyncio.gather(*self._returns, return_exceptions=True)

    async def _claim(self, consumer: str) -> None:
        clock, is_restart = asyncio.get_running_loop().time, False
        deadline = clock() + RESTART_SEC
        while True:
            try:
                return await self._fleet.claim(consumer)
            except FleetUnavailable as error:
                # An agent that has just started is not sure of its place in the fleet yet.
                is_restart |= isinstance(error, AgentDown)
                if not is_restart or clock() >= deadline:
                    raise
            await asyncio.sleep(RESTART_PAUSE_SEC)

    async def _is_unique(self, consumer: str) -> bool:
        while (status := await self._status.get()) is None:  # noqa: ASYNC110 - as an Acquire waits for gpumand
            await asyncio.sleep(ABSENT_SEC)
        found = status.consumer(consumer)
        return found is not None and found.fleet == UNIQUE

    def _give_back(self, lease: str) -> None:
        task = asyncio.ensure_future(self._arbiter.release(lease))
        self._returns.add(task)
        task.add_done_callback(self._returns.discard)
