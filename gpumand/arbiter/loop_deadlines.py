"""Deadlines of the housekeeping loops, by which the watchdog recognizes a loop that hangs."""

from __future__ import annotations

from collections.abc import Mapping


class LoopDeadlines:
    """Records when each named loop is due to finish its next round, in monotonic seconds."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def expect(self, loop: str, due: float) -> None:
        """Set the first deadline of a loop. A loop that is started again after an error keeps its former deadline:
        otherwise one that fails every time would never be late.
        """
        self._due.setdefault(loop, due)

    def finished(self, loop: str, next_due: float) -> None:
        """Note that a loop has finished a round, and when the next one is due."""
        self._due[loop] = next_due

    def overdue_sec(self, now: float) -> Mapping[str, float]:
        """Seconds by which each late loop is overdue; loops that are on time are left out."""
        return {loop: now - due for loop, due in self._due.items() if now > due}
