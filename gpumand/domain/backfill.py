"""Passing others, within limits: the queue's rule of the policy ``adaptive``.

A request for what is resident may be served before an older one that would have to load first, since together they
wait less; but only so much work is ever let past a request: ``overtake_budget_sec``. Work is counted, not age: an
age bound falls back to strict order exactly when the queue is long. Who is of higher priority is not passed.

Where overlap is allowed, the oldest that has to be loaded is loaded beside the lease that stands, and requests for what
is resident are served beside the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpumand.domain.consumer import Overlap, Residency
from gpumand.domain.planning import Decision, Requirement, decide
from gpumand.domain.queue_pass import Ahead, QueueEntry, QueuePass, Ruling, as_wait, count_ahead
from gpumand.domain.request import Verdict
from gpumand.domain.view import ConsumerState, View


class BackfillAccounting:
    """Counts, for every waiting request, the seconds of work that were let past it.

    Work is charged as expected when it begins and corrected when it ends.
    """

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._running: dict[str, tuple[tuple[int, ...], float]] = {}

    def seconds(self, number: int) -> float:
        """Seconds of work that were let past a request so far."""
        return self._seconds.get(number, 0.0)

    def begin(self, lease: str, passed: Sequence[int], expected_sec: float) -> None:
        """A lease begins that was granted past these requests."""
        if passed:
            self._running[lease] = (tuple(passed), expected_sec)
            for number in passed:
                self._seconds[number] = self.seconds(number) + expected_sec

    def end(self, lease: str, seconds: float) -> tuple[int, ...]:
        """A lease has ended after so long; returns those that it passed and that may still wait."""
        passed, expected_sec = self._running.pop(lease, ((), 0.0))
        for number in passed:
            if number in self._seconds:
                self._seconds[number] += seconds - expected_sec
        return passed

    def forget(self, number: int) -> None:
        """A request waits no more."""
        self._seconds.pop(number, None)


class BackfillPass(QueuePass):
    """One walk through the queue in which requests for what is resident may pass others."""

    def __init__(self, standings: Sequence[QueueEntry]) -> None:
        super().__init__(standings)
        self._to_load: set[int] = set()
        self._known: dict[Requirement, Decision] = {}
        self._known_of: View | None = None

    def is_over(self, view: View) -> bool:
        """Somebody further back may be resident; only where no lease can be granted and none be loaded for is it."""
        slots = view.settings.concurrent_leases
        if not slots or any(view.slots_taken(device) < slots for device in view.devices):
            return False
        return view.settings.overlap is Overlap.OFF or all(
            device in self._to_load or device in view.jobs for device in view.devices
        )

    def _waiting(self, view: View, standing: QueueEntry, decision: Decision) -> Ruling:
        """It waits for a lease to end: its consumer may be loaded meanwhile, were it the next to be."""
        if decision.verdict is Verdict.REFUSE or _resident(view, standing.requirement) is not None:
            return Ruling(decision)
        is_first = bool(decision.place) and self._to_load.isdisjoint(decision.place)
        self._to_load.update(decision.devices)
        beside = self._beside(view, standing.requirement) if is_first and _can_be_ahead(view, standing) else None
        if beside is None:
            return Ruling(decision)
        if not view.may_overlap.issuperset(beside.place):
            return Ruling(decision, is_beside=True)
        return Ruling(beside, takes_slot=False, is_beside=True)

    def _beside(self, view: View, requirement: Requirement) -> Decision | None:
        """Its load beside the lease that it waits for, where that costs nobody a consumer that is waited for."""
        decision = self._decided(view, replace(requirement, holds_slot=True))
        if decision.verdict is not Verdict.GRANT or not decision.load:
            return None
        return None if any(victim.consumer in view.wanted for victim in decision.evictions) else decision

    def _first(self, view: View, standing: QueueEntry, decision: Decision) -> Ruling:
        """Where somebody younger is served at once without its having to wait too long, it lets it pass."""
        if not decision.load:
            return Ruling(decision)
        self._to_load.update(decision.devices)
        other = self._better_first(view, standing, decision)
        if other:
            return Ruling(as_wait(decision, f"lets {other} pass, which is resident"))
        is_ahead = view.may_overlap.issuperset(decision.place) and _can_be_ahead(view, standing)
        return Ruling(decision, takes_slot=standing.requirement.wants_lease and not is_ahead)

    def _better_first(self, view: View, standing: QueueEntry, decision: Decision) -> str:
        """The consumer of the next younger request that may pass it and would not be served beside its load; or ""."""
        place = set(decision.place)
        one_at_a_time = any(_only_one_at_a_time(view, device) for device in place)
        victims = {victim.consumer for victim in decision.evictions}
        ahead = Ahead()
        ahead.add(standing)
        for one in self.standings[self._at + 1 :]:
            if ahead.most_overtaken_sec >= view.settings.overtake_budget_sec:
                break
            state = _resident(view, one.requirement)
            if state is not None and (state.name in victims or one_at_a_time):
                served = self._decided(view, one.requirement)
                is_there = served.verdict is Verdict.GRANT and not place.isdisjoint(served.place)
                if is_there and _may_overtake(view, one, ahead):
                    return state.name
            ahead.add(one)
        return ""

    def _behind(self, view: View, standing: QueueEntry, decision: Decision, ahead: Ahead) -> Ruling:
        if decision.load:
            self._to_load.update(decision.devices)
        if decision.resident and _may_overtake(view, standing, ahead):
            return Ruling(decision, passes=tuple(one.number for one in ahead.standings))
        return Ruling(as_wait(decision, count_ahead(len(ahead.standings))))

    def _decided(self, view: View, requirement: Requirement) -> Decision:
        """Decide, once for every wish as long as the view is the same."""
        if self._known_of is not view:
            self._known_of = view
            self._known.clear()
        if requirement not in self._known:
            self._known[requirement] = decide(view, requirement)
        return self._known[requirement]


def _may_overtake(view: View, standing: QueueEntry, ahead: Ahead) -> bool:
    """Whether nobody ahead would have been passed by too much, is of higher priority or wants the very same."""
    consumer = standing.requirement.consumer
    if consumer in ahead.consumers or standing.priority < ahead.most_priority:
        return False
    expected_sec = view.consumers[consumer].times.hold_sec()
    return ahead.most_overtaken_sec + expected_sec <= view.settings.overtake_budget_sec


def _can_be_ahead(view: View, standing: QueueEntry) -> bool:
    """Whether its load may be done before there is a lease slot for it.

    Not for what comes up by itself or with its first request, and not twice for the same request.
    """
    requirement, state = standing.requirement, view.consumers.get(standing.requirement.consumer)
    if (
        view.settings.overlap is Overlap.OFF
        or not requirement.wants_lease
        or requirement.holds_slot
        or standing.was_loaded
    ):
        return False
    return state is not None and not requirement.from_own_unit and not state.spec.lazy


def _resident(view: View, requirement: Requirement) -> ConsumerState | None:
    """The consumer that is wanted, where it is resident."""
    state = view.consumers.get(requirement.consumer)
    return state if state is not None and state.residency is Residency.RESIDENT else None


def _only_one_at_a_time(view: View, device: int) -> bool:
    """Whether a load there keeps others from being leased until it is done."""
    slots = view.settings.concurrent_leases
    return device not in view.may_overlap and 0 < slots <= view.slots_taken(device) + 1
