"""Decides one waiting request: on the state, on the readings that it needs, and on the requests ahead of it."""

from __future__ import annotations

from dataclasses import replace

from gpumand.arbiter.decision_cache import VRAM_READING, DecisionCache
from gpumand.arbiter.manual_reservations import MANUAL_EVICTION, ManualReservations
from gpumand.arbiter.nested_leases import NestedLeases
from gpumand.arbiter.queue_readings import QueueReadings
from gpumand.arbiter.rereads import PAUSE_SEC, WAITING_PAUSE_SEC, Rereads
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.errors import GpumandError
from gpumand.domain.queue_pass import QueueDecision, QueueEntry, QueuePass, as_wait
from gpumand.domain.request import Verdict


class RequestDecider:
    """Decides, and leaves it to the scheduler to act on the decision.

    Args:
        state: the arbiter's state.
        nested: leases that a request's client holds already.
        decisions: the decisions of this queue pass.
        rereads: says for how long a request waits for a better reading.
        readings: takes the readings that decisions need.
        manual: devices that manual evictions wait for.
    """

    def __init__(
        self,
        state: ArbiterState,
        nested: NestedLeases,
        decisions: DecisionCache,
        rereads: Rereads,
        readings: QueueReadings,
        manual: ManualReservations,
    ) -> None:
        self._state, self._nested, self._decisions = state, nested, decisions
        self._rereads, self._readings, self._manual = rereads, readings, manual
        self._is_for_new = False

    def begin_pass(self, *, is_for_new: bool) -> None:
        """Begin a queue pass; ``is_for_new`` says that nothing but the arrival of requests is the reason for it."""
        self._is_for_new = is_for_new

    def decide(self, entry: WaitingRequest, requirement: Requirement) -> Decision:
        """Decide on the current state; a decision that depends on VRAM needs a reading taken for it."""
        progress = entry.progress
        if progress.decided:
            # The last decision did not end the request. Before the next one, read VRAM again: that reading may be
            # older than the memory which was freed or taken since.
            progress.decided, progress.sample_after = False, self._state.clock.monotonic()
        decision = self._decisions.decide(requirement, entry.evict_failed)
        if decision.needs_fresh_sample and self._state.sampled_at < progress.sample_after:
            self._request_reading(entry)
            return self._decisions.wait_for_reading(requirement, decision)
        if self._rereads.is_pending(entry, decision):
            self._readings.request(PAUSE_SEC)
            return self._decisions.wait_for_reading(requirement, decision)
        if decision.unread and decision.verdict is Verdict.WAIT:
            self._readings.request(WAITING_PAUSE_SEC)
        progress.decided = True
        return decision

    def _request_reading(self, entry: WaitingRequest) -> None:
        if self._is_for_new and entry.progress.waiting_for:
            self._readings.request_soon()  # it was left waiting by an earlier pass, and nothing has changed for it
        else:
            self._readings.request()

    def deadlock(self, entry: WaitingRequest, requirement: Requirement, decision: Decision) -> GpumandError | None:
        """The error of a request that would wait for a lease which its own client keeps until it is granted."""
        if entry.own_leases and entry.progress.decided and decision.verdict is Verdict.WAIT:
            return self._nested.deadlock(self._decisions.view(), entry, requirement)
        return None

    def resolve(
        self, entry: WaitingRequest, queue_entry: QueueEntry, queue_pass: QueuePass, decision: Decision
    ) -> QueueDecision:
        """Apply the queue rule to a decision: a grant waits where it would delay an earlier request."""
        if decision.verdict is Verdict.GRANT and decision.load and self._manual.concern(decision):
            return QueueDecision(as_wait(decision, MANUAL_EVICTION))
        ruling = queue_pass.resolve(self._decisions.view(), queue_entry, decision)
        return self._check_overlapping_load(entry, self._pass_own_waiters(entry, queue_pass, decision, ruling))

    def _pass_own_waiters(
        self, entry: WaitingRequest, queue_pass: QueuePass, decision: Decision, ruling: QueueDecision
    ) -> QueueDecision:
        """Let a request go first if all requests ahead wait for leases that its client keeps until it is granted."""
        if not entry.own_leases or decision.verdict is not Verdict.GRANT or ruling.decision.verdict is Verdict.GRANT:
            return ruling
        ahead = queue_pass.entries_ahead(decision.place)
        is_first = self._nested.is_waited_for_by(self._decisions.view(), entry, [one.requirement for one in ahead])
        return QueueDecision(decision, overtaken=tuple(one.number for one in ahead)) if is_first else ruling

    def _check_overlapping_load(self, entry: WaitingRequest, ruling: QueueDecision) -> QueueDecision:
        """Apply the conditions of ``decide`` and ``resolve`` to a load that is to overlap with leases.

        The queue pass makes that decision itself, so it has not gone through those two methods.
        """
        decision = ruling.decision
        if not ruling.is_overlap_candidate or decision.verdict is not Verdict.GRANT:
            return ruling
        if self._manual.concern(decision):
            return replace(ruling, decision=as_wait(decision, MANUAL_EVICTION))
        is_outdated = decision.needs_fresh_sample and self._state.sampled_at < entry.progress.sample_after
        if is_outdated or self._rereads.is_pending(entry, decision):
            entry.progress.decided = False  # decide again on the next reading
            self._readings.request(0.0 if is_outdated else PAUSE_SEC)
            return replace(ruling, decision=as_wait(decision, VRAM_READING))
        return ruling
