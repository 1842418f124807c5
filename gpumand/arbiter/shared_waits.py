"""Waiting requests that need the same and wait for the same reason: a queue pass decides one of them for all.

A long queue mostly consists of such requests. Without sharing, every grant and every release would go through all of
them, although nothing about them changes. The outcome is that of the plain form, which decides each request by itself;
``tests/unit/arbiter/test_shared_waits.py`` compares the two on random demand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import overload

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.turn_waits import TurnWaits
from gpumand.arbiter.waiting_request import SharedWait, WaitingRequest
from gpumand.domain.consumer import Settings
from gpumand.domain.decision import Decision, Requirement
from gpumand.domain.queue_pass import QueueEntry

KEEP_SEC = 1.0
"""Seconds for which the outcome of a pass holds in later ones, at most."""


class SharedWaits:
    """Groups waiting requests by what they need, as long as a queue pass has to treat all of a group alike.

    Within a pass, the first of a group is decided, and its outcome holds for the others until the ledger changes.

    Args:
        state: the arbiter's state.
        turn_waits: says how long requests wait for the turns of other consumers.
    """

    def __init__(self, state: ArbiterState, turn_waits: TurnWaits) -> None:
        self._state, self._turn_waits = state, turn_waits
        self._groups: dict[Requirement, SharedWait] = {}
        self._candidates: list[tuple[WaitingRequest, Requirement]] = []
        self._settings: Settings | None = None
        self._revision = self._relevant_revision = -1
        self.moment = 0

    def begin_pass(self) -> None:
        """Begin a queue pass: requests whose requirement has changed leave their group."""
        self._groups = {requirement: group for requirement, group in self._groups.items() if group.members}
        self._candidates.clear()
        self._note_revision()
        if self._state.settings is not self._settings:
            self._settings = self._state.settings
            self.dissolve()
        for group in self._groups.values():
            self._follow_turns(group)

    def keep_outcomes(self) -> None:
        """Let the outcomes of the last pass hold in this one, where nothing has changed that they depend on.

        For a pass that only new requests have caused. Time changes outcomes too: the end of a turn at once, and the
        times in messages within ``KEEP_SEC``.
        """
        now = self._state.clock.monotonic()
        for group in self._groups.values():
            decision = group.decision
            is_same = decision is not None and group.revision == self._relevant_revision and group.wanted is None
            is_due = now - group.decided_at >= KEEP_SEC
            if is_same and not is_due and (decision is None or decision.retry_at is None or now < decision.retry_at):
                group.settled_at, group.alike = self.moment, None

    def _follow_turns(self, group: SharedWait) -> None:
        """Let requests leave that begin or cease to ignore the turns of other consumers."""
        if not group.requirement.wants_lease or not self._may_follow_turns(group):
            return
        for entry in tuple(group.members):
            ignored = entry.ignores_turns
            self._turn_waits.refresh(entry, self._state.overtakings.seconds(entry.request.number))
            if entry.ignores_turns is not ignored:
                entry.leave_group()

    def _may_follow_turns(self, group: SharedWait) -> bool:
        now, reserve_sec = self._state.clock.monotonic(), self._turn_waits.reserve_sec(group.requirement.consumer)
        if group.requirement.ignores_turns:
            return now < group.last_deadline - reserve_sec
        is_overtaken = self._state.overtakings.most_sec() >= self._state.settings.scheduler.overtake_budget_sec
        return is_overtaken or now >= group.first_deadline - reserve_sec

    def follow_ledger(self) -> None:
        """Note that a request was decided: if that changed the ledger, all outcomes so far are outdated."""
        if self._state.ledger.revision != self._revision:
            self._note_revision()

    def _note_revision(self) -> None:
        self.moment += 1
        self._revision = self._state.ledger.revision
        # Every request updates the learned times of its consumer. They choose victims, but whether a request has to
        # wait depends on what all victims would free together.
        self._relevant_revision = self._revision - self._state.ledger.learned

    def begin_decision(self, entry: WaitingRequest) -> None:
        """Give a request a progress of its own while it is decided."""
        if entry.group is not None:
            entry.progress = entry.progress.copy()

    def settle(self, entry: WaitingRequest, queue_entry: QueueEntry, decision: Decision) -> None:
        """Let the decision of a request to wait hold for its group.

        Args:
            entry: the request; one without a group joins one at the end of the pass.
            queue_entry: what the queue rule has seen of it.
            decision: the decision of ``planning.decide`` about it, which the queue rule has left as it is.
        """
        group = entry.group
        if group is None:
            if is_plain(entry):
                self._candidates.append((entry, queue_entry.requirement))
            return
        group.progress.take(entry.progress)
        entry.progress = group.progress
        group.settled_at, group.alike, group.decision = self.moment, [], decision
        group.revision, group.decided_at = self._relevant_revision, self._state.clock.monotonic()
        group.wanted = decision if entry.progress.decided and not group.all_know(decision.leases) else None
        if decision.retry_at is not None and len(group.members) > 1:
            self._turn_waits.decide_again_before(group.requirement.consumer, group.first_deadline, decision.retry_at)

    def waiting_alike(self, entry: WaitingRequest) -> Sequence[int]:
        """The list of the later requests in the queue for which the outcome of this one holds, by their positions."""
        group = entry.group
        return () if group is None or group.alike is None or group.settled_at != self.moment else group.alike

    def end_pass(self) -> None:
        """Let the requests that were decided by themselves join the group of those that wait like them."""
        for entry, requirement in self._candidates:
            group = self._groups.get(requirement)
            if group is None or not group.members:
                group = self._groups[requirement] = SharedWait(requirement, entry.progress)
            if entry.is_waiting and group.is_like(entry):
                group.add(entry)
        self._candidates.clear()

    def dissolve(self) -> None:
        """Decide every request by itself in the next pass."""
        for group in self._groups.values():
            for entry in tuple(group.members):
                entry.leave_group()
        self._groups.clear()


def is_plain(entry: WaitingRequest) -> bool:
    """Whether nothing but its requirement and its progress distinguishes a request from others."""
    options = entry.request.options
    is_special = entry.own_leases or options.yield_lease or entry.restores or options.timeout_sec <= 0
    return not (is_special or entry.evict_failed or entry.evictions or entry.loaded)


class QueueEntries(Sequence[QueueEntry]):
    """What the queue rule sees of the waiting requests, made for each when it is first looked at.

    Args:
        entries: the waiting requests, in serving order.
        make: makes the entry of a request.
    """

    def __init__(self, entries: Sequence[WaitingRequest], make: Callable[[WaitingRequest], QueueEntry]) -> None:
        self._entries, self._make = entries, make
        self._made: list[QueueEntry | None] = [None] * len(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, at: int) -> QueueEntry: ...

    @overload
    def __getitem__(self, at: slice) -> list[QueueEntry]: ...

    def __getitem__(self, at: int | slice) -> QueueEntry | list[QueueEntry]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        known = self._made[at]
        if known is None:
            known = self._made[at] = self._make(self._entries[at])
        return known
