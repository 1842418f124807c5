"""Who of those that wait is served now: one walk through the queue, in serving order.

A walk is pure as far as the world goes: views and waiting requests in, rulings out. Whoever walks (the daemon's desk, a
simulation) decides each request by ``planning.decide``, asks the walk for its ruling, acts on that, and says who stays
ahead of the others because it has to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gpumand.domain.consumer import Residency
from gpumand.domain.device import Devices
from gpumand.domain.errors import Busy
from gpumand.domain.planning import Decision, Requirement
from gpumand.domain.request import MIN_PRIORITY, Verdict
from gpumand.domain.strict_backfill import may_pass
from gpumand.domain.view import View


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """A waiting request, as the others see it.

    Attributes:
        number: its own; see Request.
        wish: what is to be decided for it.
        overtaken_sec: seconds of work that have been let past it.
        priority: -100 to 100.
        was_loaded: its consumer was loaded for it already.
    """

    number: int
    requirement: Requirement
    overtaken_sec: float = 0.0
    priority: int = 0
    was_loaded: bool = False


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of a request now.

    Attributes:
        decision: what ``decide`` said, or a wait where it is not its turn.
        passes: numbers of the requests that it overtakes by being granted.
        takes_slot: whether its load is for a lease slot that is free; False for one that begins beside a lease.
        is_beside: whether it is, or would be were it allowed, loaded beside the leases on its device.
    """

    decision: Decision
    passes: tuple[int, ...] = ()
    takes_slot: bool = True
    is_beside: bool = False


@dataclass(slots=True)
class Ahead:
    """Who stays ahead on one device."""

    standings: list[QueueEntry] = field(default_factory=list)
    consumers: set[str] = field(default_factory=set)
    most_overtaken_sec: float = 0.0
    most_priority: int = MIN_PRIORITY

    def add(self, standing: QueueEntry) -> None:
        """One more."""
        self.standings.append(standing)
        self.most_priority = max(self.most_priority, standing.priority)
        self.consumers.add(standing.requirement.consumer)
        self.most_overtaken_sec = max(self.most_overtaken_sec, standing.overtaken_sec)


class QueuePass:
    """One walk, by first come, first served on a device: nobody passes who could make anybody ahead wait longer."""

    def __init__(self, standings: Sequence[QueueEntry]) -> None:
        self._standings = standings
        self._ahead: dict[int, Ahead] = {}
        self._at = -1

    @property
    def standings(self) -> Sequence[QueueEntry]:
        """Those who wait, in serving order."""
        return self._standings

    def is_over(self, view: View) -> bool:
        """Whether nobody further back can be granted anything any more: those who walk need not go on for that."""
        return bool(view.settings.concurrent_leases) and all(device in self._ahead for device in view.devices)

    def stays(self, standing: QueueEntry, devices: Sequence[int]) -> None:
        """It has to wait, and stays ahead of all that come after it on these devices."""
        for device in devices:
            self._ahead.setdefault(device, Ahead()).add(standing)

    def rule(self, view: View, standing: QueueEntry, decision: Decision) -> Ruling:
        """What becomes of it in its turn. Requests must come in the order of ``standings``; any may be left out."""
        self._at = self._place_of(standing)
        if decision.verdict is not Verdict.GRANT or not decision.place:
            return self._waiting(view, standing, decision)
        ahead = self._ahead_on(decision.place)
        if ahead is None:
            return self._first(view, standing, decision)
        if decision.resident and (
            _is_own_start(view, standing.requirement) or _harms_nobody(view, standing, decision, ahead)
        ):
            return Ruling(decision)
        return self._behind(view, standing, decision, ahead)

    def _ahead_on(self, place: Devices) -> Ahead | None:
        """Who stays ahead on any of these devices; None where nobody does."""
        found = [self._ahead[device] for device in place if device in self._ahead]
        if len(found) <= 1:
            return found[0] if found else None
        numbers = {standing.number for ahead in found for standing in ahead.standings}
        together = Ahead()
        for standing in self._standings:
            if standing.number in numbers:
                together.add(standing)
        return together

    def _place_of(self, standing: QueueEntry) -> int:
        at = self._at + 1
        while self._standings[at] is not standing:
            at += 1
        return at

    def _waiting(self, view: View, standing: QueueEntry, decision: Decision) -> Ruling:
        """It is refused, or waits for something other than its turn."""
        return Ruling(decision)

    def _first(self, view: View, standing: QueueEntry, decision: Decision) -> Ruling:
        """Nobody is ahead of it where it would be granted or loaded."""
        return Ruling(decision)

    def _behind(self, view: View, standing: QueueEntry, decision: Decision, ahead: Ahead) -> Ruling:
        """Others are ahead of it there."""
        return Ruling(as_wait(decision, count_ahead(len(ahead.standings))))


def as_wait(decision: Decision, message: str) -> Decision:
    """The same, as a wait."""
    return replace(decision, verdict=Verdict.WAIT, resident=False, load=False, error=Busy, message=message)


def count_ahead(count: int) -> str:
    """That others are ahead, in words."""
    return f"{count} request{'s' if count > 1 else ''} ahead of it"


def _is_own_start(view: View, requirement: Requirement) -> bool:
    """The load that those ahead wait for is waiting for this answer."""
    return requirement.from_own_unit and view.consumers[requirement.consumer].residency is Residency.LOADING


def _harms_nobody(view: View, standing: QueueEntry, decision: Decision, ahead: Ahead) -> bool:
    return may_pass(view, standing.requirement.consumer, decision.place, list(ahead.consumers))
