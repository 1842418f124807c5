"""Loads a stopped service without a lease when a browser opens its page."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from gpumand.client.errors import GpumandError
from gpumand.gateway.leases import LeaseKeeper, Ticket

FORGET_SEC = 15.0
"""A waiting page asks every few seconds. After this time without a question, its consumer is no longer loaded."""

CHECK_SEC = 1.0


@dataclass(slots=True)
class Wake:
    """A load for pages.

    Attributes:
        asked_at: when a page has asked last, in seconds of the event loop.
        error: why it failed; None while it goes on.
    """

    asked_at: float
    error: GpumandError | None = None
    task: asyncio.Task[None] | None = None


class Wakes:
    """The loads for pages, one for each consumer at most.

    Args:
        leases: acquires a lease for the load, which is given back at once.
    """

    def __init__(self, leases: LeaseKeeper) -> None:
        self._leases = leases
        self._wakes: dict[str, Wake] = {}
        self._clock = asyncio.get_running_loop().time

    def request(self, consumer: str, priority: int | None, reason: str) -> Wake:
        """Load a consumer, unless that is under way or failed a moment ago."""
        wake = self._wakes.get(consumer)
        if wake is None:
            wake = self._wakes[consumer] = Wake(self._clock())
            ticket = self._leases.join(consumer, priority, reason)
            wake.task = asyncio.ensure_future(self._load(consumer, wake, ticket))
        wake.asked_at = self._clock()
        return wake

    async def close(self) -> None:
        """End all loads."""
        tasks = [one.task for one in self._wakes.values() if one.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load(self, consumer: str, wake: Wake, ticket: Ticket) -> None:
        try:
            while not ticket.ready.done() and self._clock() - wake.asked_at < FORGET_SEC:
                await asyncio.wait({ticket.ready}, timeout=CHECK_SEC)
            if ticket.ready.done():
                ticket.ready.result()
        except GpumandError as error:
            wake.error = error
            # The error is shown for a while, so that a page which asks again does not repeat the load in a loop.
            await asyncio.sleep(FORGET_SEC)
        finally:
            ticket.leave()
            if self._wakes.get(consumer) is wake:
                del self._wakes[consumer]
