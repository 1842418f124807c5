"""Ends waiting requests: a grant with its lease, or a refusal."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.arbiter.leases import Leases
from gpumand.arbiter.limits import lease_limit_error
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_queue import WaitingQueue
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy


class Outcomes:
    """Removes requests from the queue together with what follows from it, without an await in between."""

    def __init__(self, state: ArbiterState, queue: WaitingQueue, leases: Leases, nested: NestedLeases) -> None:
        self._state, self._queue, self._leases, self._nested = state, queue, leases, nested

    def remove(self, entry: WaitingRequest) -> None:
        """Remove a request without a grant. A load that is running for it continues; the next request joins it."""
        self._queue.refund(entry)
        self._queue.remove(entry)
        self._nested.left(entry)

    def grant(self, entry: WaitingRequest, place: Devices, overtaken: Sequence[int] = ()) -> None:
        """End a request with its lease, or without one for a load.

        Args:
            entry: the request.
            place: the devices on which its consumer is resident.
            overtaken: numbers of the waiting requests that it goes ahead of.
        """
        self._queue.remove(entry)
        if entry.restores:
            return self._grant_restored(entry, place)
        # Checked again here: many requests may have been waiting when the first of them passed the admission check.
        error = lease_limit_error(self._state.ledger, entry.request.owner.uid) if entry.wants_lease else None
        if error is not None:
            self._nested.left(entry)
            entry.refuse(error)
        elif entry.wants_lease:
            self._nested.give_back(entry)
            lease = self._leases.create(entry.request, place)
            self._nested.granted(entry)
            expected_sec = self._state.consumer(lease.consumer).times.hold_sec()
            self._state.overtakings.begin(lease.id, overtaken, expected_sec)
            self._state.overlapping.lease_started(lease.id, place)
            entry.grant(lease)
        else:
            entry.grant(None)
        return None

    def grant_unqueued(self, entry: WaitingRequest, place: Devices) -> None:
        """End a request with its lease that never was in the queue, overtakes none and gives no lease back."""
        error = lease_limit_error(self._state.ledger, entry.request.owner.uid)
        if error is not None:
            entry.refuse(error)
            return
        lease = self._leases.create(entry.request, place)
        self._state.overlapping.lease_started(lease.id, place)
        entry.grant(lease)

    def _grant_restored(self, entry: WaitingRequest, place: Devices) -> None:
        lease = self._nested.restored(entry, place)
        if lease is not None:
            self._state.overlapping.lease_started(lease.id, place)
        entry.grant(lease)

    def refuse(self, entry: WaitingRequest, decision: Decision) -> None:
        """End a request with the error of a decision."""
        self.remove(entry)
        entry.refuse((decision.error or Busy)(decision.message))
