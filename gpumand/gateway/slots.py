"""Limits how many requests a consumer works on at a time, and divides these slots fairly between clients.

Servers slow down or fail with too many requests in parallel. Requests beyond the limit wait here, before they need a
lease, in the order of gpumand's own queue: a request gains 100 points of priority in ``AGING_SEC``, so that no stream
of requests overtakes it for ever, and a client with many requests counts as if it had sent each one when the ones
before it would be done. Some slots may be reserved for interactive keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.fairness import FairShare
from gpumand.domain.queue import virtual_arrival
from gpumand.gateway.requests import Client

AGING_SEC = SchedulerSettings().aging_sec
"""Seconds of waiting that are worth 100 points of priority, as by default in gpumand's queue."""

FIRST_WORK_SEC, MIN_WORK_SEC = 10.0, 0.1
"""How long a request is expected to use its slot before any has ended, and at least."""

MEAN_OF = 8
"""About how many of the last requests the expected time is the mean of."""


@dataclass(frozen=True, slots=True)
class SlotLimits:
    """Number of requests at a time, 0 = no limit, and how many of them are reserved for interactive keys."""

    total: int = 0
    reserved: int = 0


class Slot:
    """The place of one request.

    Attributes:
        client: the client.
        rank: the place in the order of waiting requests; the lowest one is next.
        work_sec: what the request was charged in its client's share.
        began_at: when it got its slot, in seconds of the queue's clock; None while it waits.
        ready: resolved when the request may go on.
    """

    def __init__(self, queue: SlotQueue, client: Client, rank: tuple[float, int], work_sec: float) -> None:
        self.client, self.rank, self.work_sec = client, rank, work_sec
        self.began_at: float | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue = queue

    def leave(self) -> None:
        """The request has ended or does not wait any more; may be called repeatedly."""
        self._queue.leave(self)


class SlotQueue:
    """The slots of one consumer.

    Args:
        limits: the limits.
        clock: returns monotonic seconds; None = the clock of the event loop.
    """

    def __init__(self, limits: SlotLimits, clock: Callable[[], float] | None = None) -> None:
        self.limits = limits
        self._clock = clock or asyncio.get_running_loop().time
        self._shares = FairShare()
        self._work_sec = FIRST_WORK_SEC
        self._running: set[Slot] = set()
        self._waiting: list[Slot] = []
        self._last = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is no request."""
        return not (self._running or self._waiting)

    def request(self, client: Client, priority: int = 0) -> Slot:
        """Add a request; its slot is ready at once if there is room."""
        self._last += 1
        delay_sec, work_sec = self._charge(client.name) if self.limits.total else (0.0, 0.0)
        rank = virtual_arrival(self._clock() + delay_sec, priority, AGING_SEC), self._last
        slot = Slot(self, client, rank, work_sec)
        self._waiting.append(slot)
        self.admit()
        return slot

    def leave(self, slot: Slot) -> None:
        """A request has ended; called by its slot."""
        if slot in self._running:
            self._running.remove(slot)
            self._measure(slot)
        elif slot in self._waiting:
            self._waiting.remove(slot)
            self._shares.refund(slot.client.name, slot.work_sec)
        slot.ready.cancel()
        self.admit()
        if self.is_empty:
            # Names of clients are addresses where there are no keys, so they must not be kept for ever.
            self._shares = FairShare()

    def admit(self) -> None:
        """Let requests go on as far as there is room."""
        while (slot := self._next()) is not None:
            self._waiting.remove(slot)
            self._running.add(slot)
            slot.began_at = self._clock()
            slot.ready.set_result(None)

    def _charge(self, client: str) -> tuple[float, float]:
        """By how many seconds a request of a client counts as having arrived later, and what the client is charged."""
        work_sec = max(MIN_WORK_SEC, self._work_sec)
        delay_sec = self._shares.delay_sec(client, self._clock(), work_sec, AGING_SEC)
        # The share is capped, so that a larger refund would let a client reset it by leaving.
        return delay_sec, min(work_sec, AGING_SEC - delay_sec)

    def _measure(self, slot: Slot) -> None:
        if slot.began_at is not None:
            self._work_sec += (self._clock() - slot.began_at - self._work_sec) / MEAN_OF

    def _next(self) -> Slot | None:
        fitting = [one for one in self._waiting if self._fits(one)]
        return min(fitting, key=lambda one: one.rank, default=None)

    def _fits(self, slot: Slot) -> bool:
        reserved = 0 if slot.client.is_interactive else self.limits.reserved
        return not self.limits.total or len(self._running) < self.limits.total - reserved


class SlotKeeper:
    """The slots of all consumers."""

    def __init__(self) -> None:
        self._queues: dict[str, SlotQueue] = {}

    def request(self, consumer: str, limits: SlotLimits, client: Client, priority: int = 0) -> Slot:
        """Add a request to a consumer, with the limits that are in force now."""
        queue = self._queues.get(consumer)
        if queue is None or (queue.is_empty and queue.limits != limits):
            queue = self._queues[consumer] = SlotQueue(limits)
        if queue.limits != limits:
            queue.limits = limits
            queue.admit()
        return queue.request(client, priority)
