"""The queue of waiting requests, with the fairness between users and the overtakings that go with it."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.consumer import Policy
from gpumand.domain.fairness import FairShare
from gpumand.domain.queue import RequestQueue


class WaitingQueue:
    """Waiting requests in queue order."""

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._queue = RequestQueue(state.settings.scheduler.aging_sec)
        self._entries: dict[int, WaitingRequest] = {}
        self._ordered: list[WaitingRequest] = []
        self._fairness, self._charged = FairShare(), dict[int, float]()

    def __iter__(self) -> Iterator[WaitingRequest]:
        """Waiting requests in queue order."""
        return iter(self.in_order())

    def in_order(self) -> tuple[WaitingRequest, ...]:
        """Waiting requests in queue order, as they are now."""
        return tuple(self._ordered)

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, entry: WaitingRequest) -> None:
        """Add a request at its place."""
        self._entries[entry.request.number] = entry
        place = self._queue.add(entry.request, self._fairness_delay_sec(entry))
        self._ordered.insert(place, entry)
        self._state.queue_length = len(self._queue)

    def _fairness_delay_sec(self, entry: WaitingRequest) -> float:
        """Seconds by which a request counts as having arrived later, so that one user cannot fill the queue.

        Only the ``adaptive`` policy does this.
        """
        settings, request = self._state.settings.scheduler, entry.request
        if settings.policy is not Policy.ADAPTIVE or entry.restores:
            return 0.0
        user, work_sec = str(request.owner.uid), self._state.consumer(request.consumer).times.hold_sec()
        delay_sec = self._fairness.delay_sec(user, self._state.clock.monotonic(), work_sec, settings.aging_sec)
        # The delay of a user is capped at aging_sec. Charge only what was really added: ``remove`` refunds the charge,
        # and a larger refund would let a user reset the delay by leaving the queue.
        self._charged[request.number] = min(work_sec, settings.aging_sec - delay_sec)
        return delay_sec

    def charge(self, entry: WaitingRequest) -> None:
        """Charge a request that is served without waiting to its user's share, like one that waits."""
        self._fairness_delay_sec(entry)
        self._charged.pop(entry.request.number, None)

    def refund(self, entry: WaitingRequest) -> None:
        """Take back what the request was charged in its user's share, since it was not served."""
        self._fairness.refund(str(entry.request.owner.uid), self._charged.get(entry.request.number, 0.0))

    def remove(self, entry: WaitingRequest) -> None:
        """Remove a request; one that has left already is ignored, since a request may end in several ways at once."""
        entry.leave_group()
        place = self._queue.remove(entry.request)
        if place is not None:
            del self._ordered[place], self._entries[entry.request.number]
        self._state.queue_length = len(self._queue)
        self._charged.pop(entry.request.number, None)
        self._state.overtakings.forget(entry.request.number)

    def set_aging(self, aging_sec: float) -> None:
        """Change the number of seconds after which a waiting request has gained 100 priority points."""
        self._queue.set_aging(aging_sec)
        self._ordered = [self._entries[request.number] for request in self._queue]
