"""Queue passes that would leave every request waiting as before, and are therefore left out.

While a long queue waits for one consumer, leases on another one begin and end all the time. Between two readings, the
end of such a lease mostly makes the ledger again what it was when a queue pass found that all requests have to wait.
``tests/unit/arbiter/test_unchanged_waits.py`` compares this short form with the plain form, in which every end of a
lease is followed by a queue pass, on random demand.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from gpumand.arbiter.shared_waits import KEEP_SEC, is_plain
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain import budget
from gpumand.domain.consumer import Overlap
from gpumand.domain.decision import Decision
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.queue_pass import QueueDecision
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View


@dataclass(frozen=True, slots=True)
class AllWait:
    """What a queue pass depended on that left every request waiting.

    Attributes:
        entries: the requests, in serving order.
        view: the state that they were decided on.
        changes: how many changes of the ledger there were, see ``_other_changes``.
        overtakings: how often the work was counted that goes ahead of requests.
        holders: the consumers whose leases requests may wait for.
        times: learned times of the consumers of requests that may go ahead of others, depending on these times.
        until: when time alone may change an outcome, in monotonic seconds.
    """

    entries: tuple[WaitingRequest, ...]
    view: View
    changes: int
    overtakings: int
    holders: frozenset[str]
    times: dict[str, LearnedTimes]
    until: float


class UnchangedWaits:
    """Remembers the last queue pass if it left every request waiting for reasons that the ledger contains.

    Args:
        state: the arbiter's state.
    """

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._known: AllWait | None = None
        self._needs_reading = self._is_noting = False
        self._holders: set[str] = set()
        self._overtakers: set[str] = set()
        self._until, self._changes = math.inf, 0

    def begin_pass(self) -> None:
        """Begin a queue pass in which every request is decided, for itself or with others."""
        self._known, self._needs_reading = None, False
        self._holders.clear()
        self._overtakers.clear()
        # An experiment with overlapping loads changes with each lease, and with few slots each lease matters.
        settings = self._state.ledger.settings
        self._is_noting = settings.overlap is Overlap.OFF and not settings.concurrent_leases
        self._until, self._changes = math.inf, self._state.ledger.revision

    def forget(self) -> None:
        """The outcome of a request depends on something else than the ledger."""
        self._is_noting = False

    def note(self, entry: WaitingRequest, decision: Decision, ruling: QueueDecision) -> None:
        """Note that a request goes on waiting.

        Args:
            entry: the request.
            decision: the decision of ``planning.decide`` about it.
            ruling: what the queue rule has made of that.
        """
        if not self._is_noting:
            self._keep_known(decision)
            return
        is_own = decision.verdict is Verdict.WAIT and ruling.decision is decision and not ruling.is_overlap_candidate
        is_special = decision.unread or decision.busy or not is_plain(entry)
        # Which of several devices it would be loaded on depends on the last use of the victims there.
        is_movable = ruling.is_behind and decision.load and set(decision.eligible_devices) != set(decision.place)
        if is_special or is_movable or not (is_own or ruling.is_behind):
            self.forget()
            return
        self._holders.update(decision.holders)
        self._needs_reading = self._needs_reading or decision.needs_fresh_sample
        self._until = min(self._until, math.inf if decision.retry_at is None else decision.retry_at)
        if decision.resident:
            self._overtakers.add(entry.request.consumer)

    def _keep_known(self, decision: Decision) -> None:
        """Keep what is known after a request was decided in a pass for new ones, if it waits for the same leases."""
        known = self._known
        if known is None:
            return
        if not known.holders.issuperset(decision.holders) or not self._has_same_leases(known, decision.holders):
            self._known = None

    def end_pass(self, entries: tuple[WaitingRequest, ...], view: View) -> None:
        """End the pass.

        Args:
            entries: the requests that wait now, in serving order.
            view: the view of the pass.
        """
        # A pass that has changed the ledger has decided only some of the requests on what the ledger is now.
        if self._is_noting and self._state.ledger.revision == self._changes:
            self._known = AllWait(
                entries,
                view,
                self._other_changes(),
                self._state.overtakings.revision,
                frozenset(self._holders),
                {name: view.consumers[name].times for name in self._overtakers},
                min(self._until, view.now + KEEP_SEC),
            )
        self._is_noting = False

    def hold(self, name: str, entries: tuple[WaitingRequest, ...]) -> bool:
        """Whether all requests wait as they did after the last pass, now that a lease has ended.

        Args:
            name: the consumer of that lease.
            entries: the waiting requests, in serving order.
        """
        known, ledger = self._known, self._state.ledger
        if known is None or known.changes != self._other_changes():
            return False
        leased_before = known.view.consumer_leases.keys() - {name}
        return (
            self._state.clock.monotonic() < known.until
            and self._state.overtakings.revision == known.overtakings
            and leased_before == ledger.leases_by_consumer.keys() - {name}
            and self._has_same_leases(known, known.holders)
            and all(ledger.consumer(one).times is times for one, times in known.times.items())
            and known.entries == entries
            and (self._is_as_before(known, name) or self._is_independent(known, name))
        )

    def _has_same_leases(self, known: AllWait, holders: Collection[str]) -> bool:
        before, now = known.view.consumer_leases, self._state.ledger.leases_by_consumer
        return all(before.get(holder) is now.get(holder) for holder in holders)

    def _is_as_before(self, known: AllWait, name: str) -> bool:
        """Whether a consumer is as it was, but for the number of its leases and for when it was used.

        The last use chooses among victims. Whether a request waits depends on what all victims would free together.
        """
        before, now = known.view.consumers[name], self._state.ledger.consumer(name)
        is_leased_as_before = bool(before.leases) is bool(now.leases)
        return is_leased_as_before and _but_for_use(before, now, known.view)

    def _is_independent(self, known: AllWait, name: str) -> bool:
        """Whether the leases of a consumer that has none any more made no difference to any request.

        The reasons to wait name every leased consumer that could be evicted or whose footprint leaves no room. What is
        left is the part of its footprint that readings do not show, which is free now; the units that it shares with
        others; and requests for resident consumers, which compare the footprints of all leased ones with the device.
        """
        before, now, ledger = known.view.consumers[name], self._state.ledger.consumer(name), self._state.ledger
        is_named = name in known.holders or name in ledger.in_shared_units or bool(known.times)
        if is_named or now.leases or now.claimed or not (before.footprint_seen and now.footprint_seen):
            return False
        reserved = [budget.reserved_by_consumer(known.view, device).get(name, 0) for device in before.devices]
        unclaimed = copy_with(before, claimed_at=None, baseline_mib={})
        return not any(reserved) and _but_for_use(unclaimed, now, known.view)

    def require_reading(self) -> bool:
        """Decide the requests on a later reading next time, as after a pass; returns whether one is needed for that."""
        known, is_needed = self._known, self._needs_reading
        if known is None or not is_needed:
            return False
        now, self._needs_reading = self._state.clock.monotonic(), False
        for entry in known.entries:
            if entry.progress.decided:
                entry.progress.decided, entry.progress.sample_after = False, now
        return True

    def _other_changes(self) -> int:
        """Changes of the ledger without those that begins and ends of leases have made, and what was learned then."""
        ledger = self._state.ledger
        return ledger.revision - ledger.learned - ledger.counted - sum(ledger.own_leases.values())


def _but_for_use(before: ConsumerState, now: ConsumerState, view: View) -> bool:
    """Whether two states of a consumer without a turn differ in its use only."""
    use = {name: getattr(before, name) for name in ("leases", "lease_ended_usec", "idle_since", "times")}
    return before.turn.ends_at <= view.now and copy_with(now, **use) == before
