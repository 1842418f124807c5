"""Grants that a queue pass would repeat: a further lease on a consumer that is resident and leased already.

Where many clients use one service, nearly every lease is of this kind. Between two of them nothing changes but the
number of leases, which no such decision depends on, so that they need neither a view nor a queue pass.
``tests/unit/arbiter/test_repeated_grants.py`` compares this short form with the queue pass on random demand.
"""

from __future__ import annotations

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices
from gpumand.domain.request import Verdict

Key = tuple[str, Devices, bool]
"""What the decision about a request for a resident consumer depends on: consumer, devices, and own unit."""


class RepeatedGrants:
    """Remembers which requests a queue pass has granted at once, until the ledger changes.

    Args:
        state: the arbiter's state.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._places: dict[Key, Devices] = {}
        self._revision = -1

    def note(self, entry: WaitingRequest, decision: Decision) -> None:
        """Remember the decision of a queue pass about a request with no other one ahead of it.

        Call it after the grant, which changes the ledger.
        """
        is_plain = decision.resident and not decision.unread and not decision.needs_fresh_sample
        if decision.verdict is not Verdict.GRANT or not is_plain or not _may_repeat(entry):
            return
        self._follow_ledger()
        self._places[_key(entry)] = decision.place

    def place(self, entry: WaitingRequest) -> Devices:
        """The devices on which a request is to be granted a lease at once; () = a queue pass must decide."""
        self._follow_ledger()
        # With a limited number of leases on a device, each one matters for the next.
        if not self._places or self._state.settings.scheduler.concurrent_leases or not _may_repeat(entry):
            return ()
        return self._places.get(_key(entry), ())

    def _follow_ledger(self) -> None:
        revision = self._state.ledger.revision - self._state.ledger.learned - self._state.ledger.counted
        if revision != self._revision:
            self._revision = revision
            self._places.clear()


def _may_repeat(entry: WaitingRequest) -> bool:
    """Whether nothing but the consumer and the devices distinguishes a request from others."""
    options = entry.request.options
    is_special = entry.own_leases or options.yield_lease or options.exclusive or entry.restores
    return entry.wants_lease and not is_special


def _key(entry: WaitingRequest) -> Key:
    return entry.request.consumer, entry.devices, entry.from_own_unit
