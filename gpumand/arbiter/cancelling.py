"""Cancels waiting requests for their user or an administrator."""

from __future__ import annotations

import logging

from gpumand.arbiter.scheduler import Scheduler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.errors import Cancelled, NoSuchRequest
from gpumand.domain.lease import Owner
from gpumand.domain.reservation import public_name

log = logging.getLogger(__name__)


class Cancelling:
    """Cancels waiting requests by their ids.

    Args:
        state: the arbiter's state, for its clock.
        scheduler: has the waiting requests.
    """

    def __init__(self, state: ArbiterState, scheduler: Scheduler) -> None:
        self._state = state
        self._scheduler = scheduler

    def owner(self, request_id: str) -> Owner:
        """The client of a waiting request. Raises NoSuchRequest."""
        return self._find(request_id).request.owner

    def cancel(self, request_id: str, caller: Owner) -> None:
        """Refuse a waiting request with the error Cancelled. Raises NoSuchRequest.

        Evictions and a load that have not begun for it are left out. A load in progress goes on, as when its client
        leaves: ending a server in the middle of its start costs more than it frees.
        """
        entry = self._find(request_id)
        waited_sec = self._state.clock.monotonic() - entry.request.arrived_at
        by = f"user {caller.user}" if caller.user else f"uid {caller.uid}"
        label = public_name(entry.request.consumer) or "a reservation"
        log.info("the request for %s was cancelled by %s after %.0f s", label, by, waited_sec)
        self._scheduler.remove(entry)
        entry.refuse(Cancelled(f"cancelled by {by} after {waited_sec:.0f} s of waiting for {label}"))
        self._scheduler.step()

    def _find(self, request_id: str) -> WaitingRequest:
        for entry in self._scheduler:
            if entry.id == request_id and entry.is_waiting:
                return entry
        raise NoSuchRequest(f"no waiting request has the id '{request_id}': it was granted or refused meanwhile")
