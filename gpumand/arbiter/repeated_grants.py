"""Grants that a queue pass would repeat: one lease after the other on a resident consumer.

Nearly every lease is of this kind. Between two of them nothing changes but the number of leases of the consumer, which
no such decision depends on, so that they need neither a view nor a queue pass.
``tests/unit/arbiter/test_repeated_grants.py`` compares this short form with the queue pass on random demand.
"""

from __future__ import annotations

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices
from gpumand.domain.request import Verdict

MAX_PLACES = 4096
UNKNOWN: tuple[int, Devices] = -1, ()

Key = tuple[str, Devices, bool]
"""What the decision about a request for a resident consumer depends on: consumer, devices, and own unit."""


class RepeatedGrants:
    """Remembers which requests queue passes have granted at once, until the ledger changes.

    Args:
        state: the arbiter's state.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._places: dict[Key, tuple[int, Devices]] = {}

    def note(self, entry: WaitingRequest, decision: Decision) -> None:
        """Remember the decision of a queue pass about a request with no other one ahead of it.

        Call it after the grant, which changes the ledger.
        """
        is_plain = decision.resident and not decision.unread and not decision.needs_fresh_sample
        if decision.verdict is not Verdict.GRANT or not is_plain or not _may_repeat(entry):
            return
        if len(self._places) >= MAX_PLACES:
            self._places.clear()
        self._places[_key(entry)] = self._revision_for(entry), decision.place

    def place(self, entry: WaitingRequest) -> Devices:
        """The devices on which a request is to be granted a lease at once; () = a queue pass must decide."""
        # With a limited number of leases on a device, each one matters for the next.
        if self._state.ledger.settings.concurrent_leases or not _may_repeat(entry):
            return ()
        revision, place = self._places.get(_key(entry), UNKNOWN)
        return place if revision == self._revision_for(entry) else ()

    def _revision_for(self, entry: WaitingRequest) -> int:
        """The revision of the ledger without the changes that do not matter to this request."""
        ledger = self._state.ledger
        return ledger.revision - ledger.learned - ledger.counted - ledger.own_leases.get(entry.request.consumer, 0)


def _may_repeat(entry: WaitingRequest) -> bool:
    """Whether nothing but the consumer and the devices distinguishes a request from others."""
    options = entry.request.options
    is_special = entry.own_leases or options.yield_lease or options.exclusive or entry.restores
    is_reservation = options.vram_mib or options.whole_device
    return entry.wants_lease and not (is_special or is_reservation)


def _key(entry: WaitingRequest) -> Key:
    return entry.request.consumer, entry.devices, entry.from_own_unit
