"""Serves the queue: one pass over the waiting requests, in serving order, decides which of them go now.

A pass is pure: views and waiting requests in, queue decisions out. Its caller (the daemon's scheduler, a simulation)
decides each request with ``planning.decide``, gives that decision to the pass, acts on the queue decision that comes
back, and marks the requests that go on waiting, so that the pass keeps them ahead of later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.decision_messages import requests_ahead
from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy
from gpumand.domain.request import Verdict
from gpumand.domain.request_limits import MIN_PRIORITY
from gpumand.domain.reservation import is_reservation
from gpumand.domain.residency_states import Residency
from gpumand.domain.strict_backfill import may_backfill
from gpumand.domain.view import View


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A waiting request as the queue rule sees it.

    Attributes:
        number: number of the request; see Request.
        requirement: what the request needs.
        overtaken_sec: seconds of work of later requests that were served before it.
        priority: -100 to 100.
        was_loaded: its consumer was loaded for it once already.
    """

    number: int
    requirement: Requirement
    overtaken_sec: float = 0.0
    priority: int = 0
    was_loaded: bool = False


@dataclass(frozen=True, slots=True)
class QueueDecision:
    """What the queue rule makes of a request's decision.

    Attributes:
        decision: the decision of ``decide``, or a wait where it is not the request's turn.
        overtaken: numbers of the earlier requests that it overtakes by being granted.
        takes_slot: whether its load takes a free lease slot; False for a load that overlaps a lease.
        is_overlap_candidate: whether it is loaded, or could be if that were allowed, during the leases on its devices.
        is_behind: whether it would be granted but for the requests ahead of it.
    """

    decision: Decision
    overtaken: tuple[int, ...] = ()
    takes_slot: bool = True
    is_overlap_candidate: bool = False
    is_behind: bool = False


class RequestsAhead:
    """The requests that wait for a device and stay ahead of later ones.

    Most of a long queue are requests that wait like one before them. They are kept as positions, in lists that grow as
    the pass goes on, and are looked up only where a later request could overtake them.

    Args:
        entries: all waiting requests, in serving order.

    Attributes:
        decided: the requests ahead that were decided by themselves, in serving order.
        consumers: the consumers that the requests ahead need.
        has_exclusive: whether one of them needs devices without other leases.
    """

    def __init__(self, entries: Sequence[QueueEntry]) -> None:
        self._all_entries = entries
        self.decided: list[QueueEntry] = []
        self.consumers: set[str] = set()
        self.has_exclusive = False
        self._alike: list[Sequence[int]] = []
        self._listed: tuple[QueueEntry, ...] = ()

    def __len__(self) -> int:
        return len(self.decided) + sum(map(len, self._alike))

    def add(self, entry: QueueEntry, alike: Sequence[int] = ()) -> None:
        """Add a request, and the positions of later requests with its requirement that wait like it."""
        self.decided.append(entry)
        self.consumers.add(entry.requirement.consumer)
        self.has_exclusive = self.has_exclusive or entry.requirement.exclusive
        if isinstance(alike, list):
            self._alike.append(alike)

    @property
    def entries(self) -> Sequence[QueueEntry]:
        """The requests, in serving order."""
        if not self._alike:
            return self.decided
        if len(self._listed) != len(self):
            numbers, positions = {entry.number for entry in self.decided}, set[int]().union(*self._alike)
            self._listed = tuple(
                entry
                for position, entry in enumerate(self._all_entries)
                if position in positions or entry.number in numbers
            )
        return self._listed

    @property
    def max_overtaken_sec(self) -> float:
        """The most seconds of work that have gone ahead of one of them."""
        return max((entry.overtaken_sec for entry in self.entries), default=0.0)

    @property
    def max_priority(self) -> int:
        """The highest priority of any of them."""
        return max((entry.priority for entry in self.entries), default=MIN_PRIORITY)


class QueuePass:
    """One pass, first come, first served on each device: no request goes early that could delay an earlier one."""

    def __init__(self, entries: Sequence[QueueEntry]) -> None:
        self._entries = entries
        self._ahead: dict[int, RequestsAhead] = {}
        self._blocked_by_lease: dict[int, Decision] = {}
        self._position = -1

    @property
    def entries(self) -> Sequence[QueueEntry]:
        """The waiting requests, in serving order."""
        return self._entries

    def is_exhausted(self, view: View) -> bool:
        """Whether no later request can be granted anything any more, so that the caller may end the pass."""
        slots = view.settings.concurrent_leases
        if not slots or any(device not in self._ahead for device in view.devices):
            return False
        has_slot = any(view.slots_taken(device) < slots for device in view.devices)
        return not (has_slot and any(_is_in_use(view, name) for name in view.consumers))

    def mark_waiting(self, entry: QueueEntry, devices: Sequence[int], alike: Sequence[int] = ()) -> None:
        """Keep a request that goes on waiting ahead of all later ones on these devices.

        Args:
            entry: the request.
            devices: the devices.
            alike: positions of later requests that wait like it, which the caller adds as the pass goes on.
        """
        for device in devices:
            self._ahead.setdefault(device, RequestsAhead(self._entries)).add(entry, alike)

    def resolve(self, view: View, entry: QueueEntry, decision: Decision) -> QueueDecision:
        """Apply the queue rule to a request whose turn it is.

        Args:
            view: everything at this moment.
            entry: the request. Requests must come in the order of ``entries``; any may be left out.
            decision: the decision of ``planning.decide`` about it.
        """
        if decision.verdict is Verdict.WAIT and decision.advice:
            self._blocked_by_lease[entry.number] = decision
        if decision.verdict is not Verdict.GRANT or not decision.place:
            return self._resolve_waiting(view, entry, decision)
        ahead = self._ahead_on(decision.place)
        if ahead is None:
            return self._resolve_first(view, entry, decision)
        if decision.resident and (
            _is_own_start(view, entry.requirement) or _delays_no_request(view, entry, decision, ahead)
        ):
            return QueueDecision(decision)
        if decision.resident and _is_in_use(view, entry.requirement.consumer) and may_overtake(view, entry, ahead):
            return QueueDecision(decision, overtaken=tuple(one.number for one in ahead.entries))
        return self._resolve_behind(view, entry, decision, ahead)

    def keep_waiting(self, view: View, entry: QueueEntry, decision: Decision) -> None:
        """Note a wait that an earlier pass resolved, since nothing that it depends on has changed.

        Args:
            view: everything at this moment.
            entry: the request.
            decision: its decision, which that pass left as it was.
        """
        if decision.advice:
            self._blocked_by_lease[entry.number] = decision

    def entries_ahead(self, place: Devices) -> Sequence[QueueEntry]:
        """The waiting requests that stay ahead on any of these devices."""
        ahead = self._ahead_on(place)
        return () if ahead is None else ahead.entries

    def _ahead_on(self, place: Devices) -> RequestsAhead | None:
        """The requests ahead on any of these devices; None where there are none."""
        found = [self._ahead[device] for device in place if device in self._ahead]
        if len(found) <= 1:
            return found[0] if found else None
        # A request that waits for several devices is listed under each of them, and must count once.
        numbers = {entry.number for ahead in found for entry in ahead.entries}
        together = RequestsAhead(self._entries)
        for entry in self._entries:
            if entry.number in numbers:
                together.add(entry)
        return together

    def _later_than(self, entry: QueueEntry) -> Sequence[QueueEntry]:
        """The requests behind this one, which is being resolved."""
        # The search only goes forward, since requests come in order: a whole pass then takes linear time.
        self._position += 1
        while self._entries[self._position] is not entry:
            self._position += 1
        return self._entries[self._position + 1 :]

    def _resolve_waiting(self, view: View, entry: QueueEntry, decision: Decision) -> QueueDecision:
        """A request that is refused, or waits for something other than its turn."""
        return QueueDecision(decision)

    def _resolve_first(self, view: View, entry: QueueEntry, decision: Decision) -> QueueDecision:
        """A request with none ahead of it on the devices on which it would be granted or loaded."""
        return QueueDecision(decision)

    def _resolve_behind(self, view: View, entry: QueueEntry, decision: Decision, ahead: RequestsAhead) -> QueueDecision:
        """A request with others ahead of it on its devices."""
        return QueueDecision(self._wait_behind(decision, ahead), is_behind=True)

    def _wait_behind(self, decision: Decision, ahead: RequestsAhead) -> Decision:
        """A wait for the requests ahead, which names the leases that the first of them waits for."""
        blocked = (self._blocked_by_lease.get(one.number) for one in ahead.decided)
        blocker = next((one for one in blocked if one is not None), None)
        if blocker is None:
            return as_wait(decision, requests_ahead(len(ahead)))
        return as_wait(decision, requests_ahead(len(ahead), blocker.message), blocker.advice)


def as_wait(decision: Decision, message: str, advice: str = "") -> Decision:
    """Turn a decision into a wait with this message and advice."""
    return replace(
        decision, verdict=Verdict.WAIT, resident=False, load=False, error=Busy, message=message, advice=advice
    )


def may_overtake(view: View, entry: QueueEntry, ahead: RequestsAhead) -> bool:
    """Whether every request ahead has budget left for this one, no higher priority, and needs another consumer."""
    consumer = entry.requirement.consumer
    if consumer in ahead.consumers or entry.priority < ahead.max_priority:
        return False
    if is_reservation(consumer):
        return False  # it takes memory that the requests ahead may need
    expected_sec = view.consumers[consumer].times.hold_sec()
    return ahead.max_overtaken_sec + expected_sec <= view.settings.overtake_budget_sec


def _is_in_use(view: View, name: str) -> bool:
    """Whether the consumer is leased or has its turn, so that requests ahead could not evict it now anyway."""
    state = view.consumers[name]
    return state.leases > 0 or view.turn_until(state) is not None


def _is_own_start(view: View, requirement: Requirement) -> bool:
    """Whether the load that earlier requests wait for is itself waiting for this answer: queueing it would deadlock."""
    return requirement.from_own_unit and view.consumers[requirement.consumer].residency is Residency.LOADING


def _delays_no_request(view: View, entry: QueueEntry, decision: Decision, ahead: RequestsAhead) -> bool:
    if entry.requirement.exclusive or ahead.has_exclusive:
        return False
    return may_backfill(view, entry.requirement.consumer, decision.place, list(ahead.consumers))
