"""Backfill within limits, the queue rule of the policy ``adaptive``: later requests for resident consumers go first.

A request for a resident consumer may be served before an older one that needs a load, since together they wait less.
Only a limited amount of work ever goes past one request: ``overtake_budget_sec``. Work is counted and not age, because
an age limit falls back to strict order exactly when the queue is long. Requests of higher priority are not overtaken.

Where overlap is allowed, the oldest request that needs a load is loaded for during the active lease, and requests for
resident consumers are served during the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpumand.domain.consumer import Overlap
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.decision_messages import resident_goes_first
from gpumand.domain.planning import decide
from gpumand.domain.queue_pass import QueueDecision, QueueEntry, QueuePass, RequestsAhead, as_wait, may_overtake
from gpumand.domain.request import Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View


class BackfillAccounting:
    """Counts, for every waiting request, the seconds of work of later requests that were served before it.

    Work is charged with its expected length when it begins, and corrected when it ends.

    Attributes:
        revision: how often work was charged or corrected.
    """

    def __init__(self) -> None:
        self.revision = 0
        self._seconds: dict[int, float] = {}
        self._running: dict[str, tuple[tuple[int, ...], float]] = {}

    def seconds(self, number: int) -> float:
        """Seconds of work that have been served before the request so far."""
        return self._seconds.get(number, 0.0)

    def most_sec(self) -> float:
        """The most seconds of any request."""
        return max(self._seconds.values(), default=0.0)

    def begin(self, lease: str, overtaken: Sequence[int], expected_sec: float) -> None:
        """Charge a new lease to the requests that it overtakes.

        Args:
            lease: id of the lease.
            overtaken: numbers of the requests.
            expected_sec: how long the lease is expected to last.
        """
        if overtaken:
            self.revision += 1
            self._running[lease] = (tuple(overtaken), expected_sec)
            for number in overtaken:
                self._seconds[number] = self.seconds(number) + expected_sec

    def end(self, lease: str, seconds: float) -> tuple[int, ...]:
        """Correct the charge of a lease that has ended after ``seconds``; returns the requests that it overtook."""
        overtaken, expected_sec = self._running.pop(lease, ((), 0.0))
        self.revision += bool(overtaken)
        for number in overtaken:
            # A request that was served or left in the meantime has been forgotten.
            if number in self._seconds:
                self._seconds[number] += seconds - expected_sec
        return overtaken

    def forget(self, number: int) -> None:
        """Forget a request that no longer waits."""
        self._seconds.pop(number, None)


class BackfillPass(QueuePass):
    """One pass over the queue in which requests for resident consumers may overtake others."""

    def __init__(self, entries: Sequence[QueueEntry]) -> None:
        super().__init__(entries)
        self._devices_to_load: set[int] = set()
        self._decisions: dict[Requirement, Decision] = {}
        self._decisions_view: View | None = None

    def is_exhausted(self, view: View) -> bool:
        """Whether no lease can be granted and nothing be loaded on any device; a later request may be resident."""
        slots = view.settings.concurrent_leases
        if not slots or any(view.slots_taken(device) < slots for device in view.devices):
            return False
        return view.settings.overlap is Overlap.OFF or all(
            device in self._devices_to_load or device in view.jobs for device in view.devices
        )

    def keep_waiting(self, view: View, entry: QueueEntry, decision: Decision) -> None:
        """Note a wait that an earlier pass resolved, since nothing that it depends on has changed."""
        super().keep_waiting(view, entry, decision)
        if _resident_consumer(view, entry.requirement) is None:
            self._devices_to_load.update(decision.eligible_devices)

    def _resolve_waiting(self, view: View, entry: QueueEntry, decision: Decision) -> QueueDecision:
        """A request that waits for a lease to end: the first that needs a load may be loaded for during the lease."""
        if decision.verdict is Verdict.REFUSE or _resident_consumer(view, entry.requirement) is not None:
            return QueueDecision(decision)
        # Only the first request that needs a load on a device gets one, whether or not it may be loaded for now: a
        # later one would take its memory.
        is_first = bool(decision.place) and self._devices_to_load.isdisjoint(decision.place)
        self._devices_to_load.update(decision.eligible_devices)
        early = self._overlapping_load(view, entry.requirement) if is_first and _can_load_early(view, entry) else None
        if early is None:
            return QueueDecision(decision)
        if not view.may_overlap.issuperset(early.place):
            return QueueDecision(decision, is_overlap_candidate=True)
        return QueueDecision(early, takes_slot=False, is_overlap_candidate=True)

    def _overlapping_load(self, view: View, requirement: Requirement) -> Decision | None:
        """The load during the lease that blocks it; None where that would evict what another request waits for."""
        decision = self._decide(view, replace(requirement, holds_slot=True))
        if decision.verdict is not Verdict.GRANT or not decision.load:
            return None
        return None if any(victim.consumer in view.queue_positions for victim in decision.evictions) else decision

    def _resolve_first(self, view: View, entry: QueueEntry, decision: Decision) -> QueueDecision:
        """A request that is next on its devices: it lets later ones go first where they cost it little enough."""
        if not decision.load:
            return QueueDecision(decision)
        self._devices_to_load.update(decision.eligible_devices)
        other = self._resident_to_go_first(view, entry, decision)
        if other:
            return QueueDecision(as_wait(decision, resident_goes_first(other)))
        is_early = view.may_overlap.issuperset(decision.place) and _can_load_early(view, entry)
        return QueueDecision(decision, takes_slot=entry.requirement.wants_lease and not is_early)

    def _resident_to_go_first(self, view: View, entry: QueueEntry, decision: Decision) -> str:
        """The consumer of the next later request that may overtake this one, and could not be served during its load.

        "" where there is none.
        """
        place = set(decision.place)
        blocks_leases = any(_load_blocks_leases(view, device) for device in place)
        victims = {victim.consumer for victim in decision.evictions}
        ahead = RequestsAhead(self.entries)
        ahead.add(entry)
        for later in self._later_than(entry):
            if ahead.max_overtaken_sec >= view.settings.overtake_budget_sec:
                break
            state = _resident_consumer(view, later.requirement)
            if state is not None and (state.name in victims or blocks_leases):
                served = self._decide(view, later.requirement)
                is_same_place = served.verdict is Verdict.GRANT and not place.isdisjoint(served.place)
                if is_same_place and may_overtake(view, later, ahead):
                    return state.name
            # A later request that stays behind is overtaken too by those after it, and its budget limits them.
            ahead.add(later)
        return ""

    def _resolve_behind(self, view: View, entry: QueueEntry, decision: Decision, ahead: RequestsAhead) -> QueueDecision:
        if decision.load:
            self._devices_to_load.update(decision.eligible_devices)
        if decision.resident and may_overtake(view, entry, ahead):
            return QueueDecision(decision, overtaken=tuple(one.number for one in ahead.entries))
        return QueueDecision(self._wait_behind(decision, ahead), is_behind=True)

    def _decide(self, view: View, requirement: Requirement) -> Decision:
        """Decide, once for every requirement while the view is the same object: a long queue asks again and again."""
        if self._decisions_view is not view:
            self._decisions_view = view
            self._decisions.clear()
        if requirement not in self._decisions:
            self._decisions[requirement] = decide(view, requirement)
        return self._decisions[requirement]


def _can_load_early(view: View, entry: QueueEntry) -> bool:
    """Whether its consumer may be loaded before a lease slot is free.

    Not one that loads by itself or with its first request, and not twice for the same request.
    """
    requirement, state = entry.requirement, view.consumers.get(entry.requirement.consumer)
    if (
        view.settings.overlap is Overlap.OFF
        or not requirement.wants_lease
        or requirement.holds_slot
        or entry.was_loaded
    ):
        return False
    return state is not None and not requirement.from_own_unit and not state.spec.lazy


def _resident_consumer(view: View, requirement: Requirement) -> ConsumerState | None:
    """The requested consumer, if it is resident."""
    state = view.consumers.get(requirement.consumer)
    return state if state is not None and state.residency is Residency.RESIDENT else None


def _load_blocks_leases(view: View, device: int) -> bool:
    """Whether no other consumer can be leased on the device until a load there has ended."""
    slots = view.settings.concurrent_leases
    return device not in view.may_overlap and 0 < slots <= view.slots_taken(device) + 1
