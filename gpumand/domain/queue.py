"""Who is next: priority first, then arrival, and nobody waits for ever."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator

from gpumand.domain.request import Request


class RequestQueue:
    """Waiting requests in the order in which they are served.

    One priority point is worth ``aging_sec / 100`` seconds of waiting, for everybody alike: a request of priority 50
    is treated as one that arrived half an ``aging_sec`` earlier. So a higher priority goes first among those that
    arrived together, and no stream of newcomers overtakes a waiting request for ever: after twice ``aging_sec`` even
    -100 stands before every newcomer of +100. Since all age at the same rate the order of two requests never
    changes, which is what lets it be a sorted list.
    """

    def __init__(self, aging_sec: float) -> None:
        self._sec_per_point = aging_sec / 100.0
        self._waiting: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        """Iterate in serving order over a copy, so that the queue may change meanwhile."""
        return iter(tuple(self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: Request) -> bool:
        return request in self._waiting

    def add(self, request: Request) -> None:
        """Let a request wait."""
        insort(self._waiting, request, key=self._rank)

    def remove(self, request: Request) -> None:
        """Take a request out, if it is there."""
        if request in self._waiting:
            self._waiting.remove(request)

    def set_aging(self, aging_sec: float) -> None:
        """Put a new worth of a priority point in force, for those who wait too."""
        self._sec_per_point = aging_sec / 100.0
        self._waiting.sort(key=self._rank)

    def _rank(self, request: Request) -> tuple[float, int]:
        return request.arrived_at - request.priority * self._sec_per_point, request.number
