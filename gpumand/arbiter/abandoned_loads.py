"""Finds loads that no request waits for any more and that stand in the way of a request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.waiting_request import WaitingRequest
from gpumand.domain.abandoned import needs_room_of

GRACE_SEC = 3.0
"""Seconds for which a load goes on without a request: a client whose timeout has passed may ask again."""


class AbandonedLoads:
    """Remembers since when each running load has been without a request."""

    def __init__(self, state: ArbiterState) -> None:
        self._state = state
        self._since: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether any load was without a request at the last queue pass."""
        return bool(self._since)

    def note(self, abandoned: Iterable[str]) -> bool:
        """Note which loads no request waits for at the moment. Returns whether there is a new one."""
        now, before = self._state.clock.monotonic(), self._since
        self._since = {name: before.get(name, now) for name in abandoned}
        return not self._since.keys() <= before.keys()

    def in_the_way(self, waiting: Sequence[WaitingRequest]) -> dict[str, str]:
        """The abandoned loads that must give way, and for which consumer."""
        now = self._state.clock.monotonic()
        overdue = [name for name, since in self._since.items() if now - since >= GRACE_SEC]
        if not overdue or not waiting:
            return {}
        view = self._state.view()
        found = {}
        for name in overdue:
            needing = (one for one in waiting if one.is_waiting and needs_room_of(view, one.requirement, name))
            if (first := next(needing, None)) is not None:
                found[name] = first.request.consumer
        return found
