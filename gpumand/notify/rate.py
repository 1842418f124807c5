"""Limits how often a hook is run. Pure; the times are those of a monotonic clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from gpumand.notify.notices import Notice

HOUR_SEC = 3600.0
MAX_PENDING = 50
"""Notices that one delivery contains; further ones are counted only."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is delivered at once.

    Attributes:
        notices: at least one, the oldest first.
        left_out: further notices that are not among them.
    """

    notices: tuple[Notice, ...]
    left_out: int = 0


class RateLimit:
    """Collects the notices of one hook until they may be delivered.

    Args:
        min_interval_sec: shortest time between two deliveries.
        max_per_hour: most deliveries in an hour.
    """

    def __init__(self, min_interval_sec: float, max_per_hour: int) -> None:
        self._min_interval_sec = min_interval_sec
        self._max_per_hour = max_per_hour
        self._pending: list[Notice] = []
        self._left_out = 0
        self._delivered: deque[float] = deque()

    def add(self, notices: Iterable[Notice]) -> None:
        """Add notices to the next delivery."""
        for one in notices:
            if len(self._pending) < MAX_PENDING:
                self._pending.append(one)
            else:
                self._left_out += 1

    def due(self, now: float) -> Delivery | None:
        """The delivery that may be made now; None if there is nothing to deliver, or it is too early."""
        while self._delivered and now - self._delivered[0] >= HOUR_SEC:
            self._delivered.popleft()
        is_early = bool(self._delivered) and now - self._delivered[-1] < self._min_interval_sec
        if not self._pending or is_early or len(self._delivered) >= self._max_per_hour:
            return None
        found = Delivery(tuple(self._pending), self._left_out)
        self._pending, self._left_out = [], 0
        self._delivered.append(now)
        return found
