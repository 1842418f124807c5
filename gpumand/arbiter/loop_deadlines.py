"""When each loop of upkeep is to have finished its next turn: what tells a loop that goes on from one that hangs."""

from __future__ import annotations

from collections.abc import Mapping


class LoopDeadlines:
    """Notes the turns of named loops, in seconds of the clock that the loops go by."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def expect(self, loop: str, due: float) -> None:
        """A loop begins; one that broke off and begins anew gets no more time by that, or it could fail for ever."""
        self._due.setdefault(loop, due)

    def finished(self, loop: str, next_due: float) -> None:
        """A loop has done all that a turn consists of; the next is to begin at that moment."""
        self._due[loop] = next_due

    def overdue_sec(self, now: float) -> Mapping[str, float]:
        """For how long each loop's next turn has been due; only those for which it is."""
        return {loop: now - due for loop, due in self._due.items() if now > due}
