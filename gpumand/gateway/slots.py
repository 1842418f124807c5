"""Limits how many requests a consumer works on at a time, and divides these slots fairly between clients.

Servers slow down or fail with too many requests in parallel. Requests beyond the limit wait here, before they need a
lease. The next slot goes to the request with the highest priority, then to the client that uses the fewest slots, then
to the client that got its last slot first, then to the request that has waited longest. Some slots may be reserved for
interactive keys.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass

from gpumand.gateway.requests import Client


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Number of requests at a time, 0 = no limit, and how many of them are reserved for interactive keys."""

    total: int = 0
    reserved: int = 0


class Slot:
    """The place of one request.

    Attributes:
        client: the client.
        order: number of the request.
        ready: resolved when the request may go on.
    """

    def __init__(self, queue: SlotQueue, client: Client, order: int) -> None:
        self.client, self.order = client, order
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue = queue

    def leave(self) -> None:
        """The request has ended or does not wait any more; may be called repeatedly."""
        self._queue.leave(self)


class SlotQueue:
    """The slots of one consumer.

    Args:
        limits: the limits.
    """

    def __init__(self, limits: SlotLimits) -> None:
        self.limits = limits
        self._active: Counter[str] = Counter()
        self._running: set[Slot] = set()
        self._waiting: list[Slot] = []
        self._served: dict[str, int] = {}
        self._last = self._turn = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no request."""
        return not (self._running or self._waiting)

    def request(self, client: Client) -> Slot:
        """Add a request; its slot is ready at once if there is room."""
        self._last += 1
        slot = Slot(self, client, self._last)
        self._waiting.append(slot)
        self.admit()
        return slot

    def leave(self, slot: Slot) -> None:
        """A request has ended; called by its slot."""
        if slot in self._running:
            self._running.remove(slot)
            self._active[slot.client.name] -= 1
        elif slot in self._waiting:
            self._waiting.remove(slot)
        slot.ready.cancel()
        self.admit()
        if self.is_empty:
            # Names of clients are addresses where there are no keys, so they must not be kept for ever.
            self._served.clear()
            self._active.clear()

    def admit(self) -> None:
        """Let requests go on as far as there is room."""
        while (slot := self._next()) is not None:
            self._waiting.remove(slot)
            self._running.add(slot)
            self._active[slot.client.name] += 1
            self._turn += 1
            self._served[slot.client.name] = self._turn
            slot.ready.set_result(None)

    def _next(self) -> Slot | None:
        fitting = [one for one in self._waiting if self._fits(one)]
        return min(fitting, key=self._rank, default=None)

    def _fits(self, slot: Slot) -> bool:
        reserved = 0 if slot.client.is_interactive else self.limits.reserved
        return not self.limits.total or len(self._running) < self.limits.total - reserved

    def _rank(self, slot: Slot) -> tuple[int, int, int, int]:
        name = slot.client.name
        return -slot.client.priority, self._active[name], self._served.get(name, 0), slot.order


class SlotKeeper:
    """The slots of all consumers."""

    def __init__(self) -> None:
        self._queues: dict[str, SlotQueue] = {}

    def request(self, consumer: str, limits: SlotLimits, client: Client) -> Slot:
        """Add a request to a consumer, with the limits that are in force now."""
        queue = self._queues.get(consumer)
        if queue is None or (queue.is_empty and queue.limits != limits):
            queue = self._queues[consumer] = SlotQueue(limits)
        if queue.limits != limits:
            queue.limits = limits
            queue.admit()
        return queue.request(client)
