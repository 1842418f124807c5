"""Limits how many requests a consumer works on at a time, and divides these slots fairly between clients.

Servers slow down or fail with too many requests in parallel. Requests beyond the limit wait here, before they need a
lease. Clients take turns, however many requests each of them has sent, by ``slot_shares``. The priority of a request
is worth a head start, and a client gains 100 points of it in ``AGING_SEC`` without a turn, as in gpumand's own queue,
so that no stream of requests overtakes it for ever. Some slots may be reserved for interactive keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from gpumand.domain.consumer import SchedulerSettings
from gpumand.domain.queue import virtual_arrival
from gpumand.gateway.requests import Client
from gpumand.gateway.slot_shares import SlotShares

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
        number: increases with each request of the queue.
        priority: its priority, -100 to 100.
        arrived_at: when it has arrived, in seconds of the queue's clock.
        work_sec: what its client was charged for it.
        began_at: when it got its slot, in seconds of the queue's clock; None while it waits.
        contended_at: the queue's seconds of contention at that time.
        ready: resolved when the request may go on.
    """

    def __init__(self, queue: SlotQueue, client: Client, number: int, priority: int, arrived_at: float) -> None:
        self.client, self.number, self.priority, self.arrived_at = client, number, priority, arrived_at
        self.work_sec = self.contended_at = 0.0
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
        self._shares = SlotShares()
        self._work_sec = FIRST_WORK_SEC
        self._running: set[Slot] = set()
        self._waiting: list[Slot] = []
        self._last = 0
        self._contended_sec = 0.0
        self._contended_since: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is no request."""
        return not (self._running or self._waiting)

    def request(self, client: Client, priority: int = 0) -> Slot:
        """Add a request; its slot is ready at once if there is room."""
        self._last += 1
        slot = Slot(self, client, self._last, priority, self._clock())
        self._waiting.append(slot)
        self.admit()
        return slot

    def leave(self, slot: Slot) -> None:
        """A request has ended; called by its slot."""
        self._note_contention()
        if slot in self._running:
            self._running.remove(slot)
            self._measure(slot)
        elif slot in self._waiting:
            self._waiting.remove(slot)
        slot.ready.cancel()
        self.admit()
        if self.is_empty:
            # Names of clients are addresses where there are no keys, so they must not be kept for ever.
            self._shares = SlotShares()

    def admit(self) -> None:
        """Let requests go on as far as there is room."""
        self._note_contention()
        while (slot := self._next()) is not None:
            self._waiting.remove(slot)
            self._running.add(slot)
            slot.began_at, slot.contended_at = self._clock(), self._contended_sec
            if self.limits.total:
                slot.work_sec = max(MIN_WORK_SEC, self._work_sec)
                self._shares.charge(slot.client.name, slot.work_sec, slot.began_at)
            slot.ready.set_result(None)
        self._note_contention()

    def _note_contention(self) -> None:
        """Count the seconds in which requests wait. At other times, a client takes its slots from no other one."""
        now = self._clock()
        if self._contended_since is not None:
            self._contended_sec += now - self._contended_since
        self._contended_since = now if self._waiting else None

    def _rank(self, slot: Slot) -> tuple[float, int]:
        """The place of a waiting request: the lowest one is next."""
        name = slot.client.name
        since = virtual_arrival(self._shares.waits_since(name, slot.arrived_at), slot.priority, AGING_SEC)
        return self._shares.start_of(name) + since, slot.number

    def _measure(self, slot: Slot) -> None:
        if slot.began_at is not None:
            used_sec = self._clock() - slot.began_at
            self._work_sec += (used_sec - self._work_sec) / MEAN_OF
            contended_sec = self._contended_sec - slot.contended_at
            self._shares.correct(slot.client.name, max(MIN_WORK_SEC, contended_sec) - slot.work_sec)

    def _next(self) -> Slot | None:
        fitting = [one for one in self._waiting if self._fits(one)]
        return min(fitting, key=self._rank, default=None)

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
