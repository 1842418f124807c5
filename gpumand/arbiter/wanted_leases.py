"""Informs the holders of leases that a waiting request needs the room of their consumer."""

from __future__ import annotations

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision
from gpumand.domain.events import LeaseWanted
from gpumand.domain.reservation import public_name


class WantedLeases:
    """Publishes ``LeaseWanted`` once for each lease and waiting request, however often the request is decided.

    Attributes:
        found: what this queue pass has found: requests, each with a lease that it waits for.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self.found: list[tuple[WaitingRequest, str]] = []

    def note(self, entry: WaitingRequest, decision: Decision) -> None:
        """Remember the leases that a request waits for, until the end of the queue pass.

        Args:
            entry: the request; one that does not wait (timeout 0) is refused at once, so that no holder needs to know.
            decision: its decision, on a reading that was taken for it.
        """
        if entry.request.options.timeout_sec > 0:
            self.found += [(entry, lease) for lease in decision.leases if lease not in entry.wanted_leases]

    def publish(self) -> None:
        """Publish what the queue pass has found, after the changes of state that it led to."""
        found, self.found = self.found, []
        for entry, lease_id in found:
            lease = self._state.ledger.leases.get(lease_id)
            # The grant of a lease is announced when it is on disk. Until then a later pass informs its holder.
            if entry.is_waiting and lease is not None and lease_id in self._state.announced_leases:
                entry.wanted_leases.add(lease_id)
                self._state.publish(LeaseWanted(lease, public_name(entry.request.consumer), self._since_usec(entry)))

    def _since_usec(self, entry: WaitingRequest) -> int:
        waited_sec = self._state.clock.monotonic() - entry.request.arrived_at
        return self._state.clock.realtime_usec() - int(max(0.0, waited_sec) * 1e6)
