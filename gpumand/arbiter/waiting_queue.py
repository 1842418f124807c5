"""The queue of waiting requests, with the fairness between users and the overtakings that go with it."""

from __future__ import annotations

from collections.abc import Iterator

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.consumer import Policy
from gpumand.domain.fairness import FairShare
from gpumand.domain.queue import RequestQueue


class WaitingQueue:
    """Waiting requests in queue order.

    Attributes:
        revision: incremented whenever a request is added or removed, or is decided and goes on waiting, and when the
            order changes.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state, self.revision = state, 0
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
        self.revision += 1
        self._entries[entry.request.number] = entry
        place = self._queue.add(entry.request, self._fairness_delay_sec(entry))
        self._ordered.insert(place, entry)
        self._state.queue_length = len(self._queue)

    def _fairness_delay_sec(self, entry: WaitingRequest) -> float:
        """Seconds by which a request counts as having arrived later, so that one user cannot fill the queue.

        Only the ``adaptive`` policy does this.
        """
        settings, request = self._state.settings.scheduler, entry.request
        if not self._is_fair(entry):
            return 0.0
        user, work_sec = str(request.owner.uid), self._state.consumer(request.consumer).times.hold_sec()
        delay_sec = self._fairness.delay_sec(user, self._state.clock.monotonic(), work_sec, settings.aging_sec)
        # The delay of a user is capped at aging_sec. Charge only what was really added: ``remove`` refunds the charge,
        # and a larger refund would let a user reset the delay by leaving the queue.
        self._charged[request.number] = min(work_sec, settings.aging_sec - delay_sec)
        return delay_sec

    def _is_fair(self, entry: WaitingRequest) -> bool:
        return self._state.settings.scheduler.policy is Policy.ADAPTIVE and not entry.restores

    def place(self, entry: WaitingRequest) -> int:
        """The number of requests ahead of one that waits, or that would be added now."""
        if not self._ordered:
            return 0
        limit_sec, user = self._state.settings.scheduler.aging_sec, str(entry.request.owner.uid)
        now, is_fair = self._state.clock.monotonic(), self._is_fair(entry)
        return self._queue.place(entry.request, self._fairness.lag_sec(user, now, limit_sec) if is_fair else 0.0)

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
            self.revision += 1
        self._state.queue_length = len(self._queue)
        self._charged.pop(entry.request.number, None)
        self._state.overtakings.forget(entry.request.number)

    def set_aging(self, aging_sec: float) -> None:
        """Change the number of seconds after which a waiting request has gained 100 priority points."""
        self._queue.set_aging(aging_sec)
        self.revision += 1
        self._ordered = [self._entries[request.number] for request in self._queue]
