"""Grants that a queue pass would repeat: one lease after the other on a resident consumer.

Nearly every lease is of this kind. Between two of them nothing changes but the number of leases of the consumer, which
no such decision depends on, so that they need neither a view nor a queue pass. That holds beside waiting requests as
well, as long as they are the same and as many of them are ahead: no request was overtaken by the first grant, so that
the next one delays none either.
``tests/unit/arbiter/test_repeated_grants.py`` compares this short form with the queue pass on random demand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_queue import WaitingQueue
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision
from gpumand.domain.device import Devices
from gpumand.domain.request import Verdict

MAX_PLACES = 4096

Key = tuple[str, Devices, bool]
"""What the decision about a request for a resident consumer depends on: consumer, devices, and own unit."""


@dataclass(frozen=True, slots=True)
class KnownGrant:
    """A grant of a queue pass, and what the next one like it depends on.

    Attributes:
        place: the devices of the lease.
        revision: the revision of the ledger, without changes that do not matter.
        queue_revision: the revision of the queue after the pass.
        ahead: how many requests were ahead of the granted one.
        was_leased: whether the consumer had another lease.
    """

    place: Devices
    revision: int
    queue_revision: int
    ahead: int
    was_leased: bool


class RepeatedGrants:
    """Remembers which requests queue passes have granted at once, until the ledger changes.

    Args:
        state: the arbiter's state.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._places: dict[Key, KnownGrant] = {}
        self._noted: list[tuple[Key, KnownGrant]] = []

    def note(self, entry: WaitingRequest, decision: Decision, ahead: int, *, was_leased: bool) -> None:
        """Remember the decision of a queue pass about a request that overtakes no other one.

        Call it after the grant, which changes the ledger.

        Args:
            entry: the request.
            decision: its decision.
            ahead: how many of the requests that go on waiting are ahead of it.
            was_leased: whether its consumer had a lease before.
        """
        is_plain = decision.resident and not decision.unread and not decision.needs_fresh_sample
        if decision.verdict is not Verdict.GRANT or not is_plain or not _may_repeat(entry):
            return
        grant = KnownGrant(decision.place, self._revision_for(entry), -1, ahead, was_leased)
        self._noted.append((_key(entry), grant))

    def end_pass(self, queue: WaitingQueue) -> None:
        """Let the noted grants be repeated while the requests that wait after the pass wait as they do now."""
        for key, grant in self._noted:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[key] = replace(grant, queue_revision=queue.revision)
        self._noted.clear()

    def place(self, entry: WaitingRequest, queue: WaitingQueue) -> Devices:
        """The devices on which a request is to be granted a lease at once; () = a queue pass must decide.

        Args:
            entry: the request, which is not queued.
            queue: the waiting requests.
        """
        # With a limited number of leases on a device, each one matters for the next.
        if self._state.ledger.settings.concurrent_leases or not _may_repeat(entry):
            return ()
        known = self._places.get(_key(entry))
        if known is None or known.revision != self._revision_for(entry):
            return ()
        is_same_queue = known.queue_revision == queue.revision and known.ahead == queue.place(entry)
        return known.place if is_same_queue and (not queue or self._has_same_ahead(entry, known)) else ()

    def _has_same_ahead(self, entry: WaitingRequest, known: KnownGrant) -> bool:
        """Whether as many requests are ahead on the devices of the grant as were then.

        A request that waits for one of several devices waits for those that it could have later on. A leased consumer
        can make a device one of them, or end that.
        """
        ledger = self._state.ledger
        return len(ledger.devices) == 1 or known.was_leased is bool(ledger.consumer(entry.request.consumer).leases)

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
