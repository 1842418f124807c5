"""Who is next: priority first, then arrival, and nobody waits for ever."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from gpumand.domain.request import Request

Rank = tuple[float, int]


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
        self._waiting: dict[int, tuple[Request, float]] = {}
        self._order: list[Rank] = []

    def __iter__(self) -> Iterator[Request]:
        """Iterate in serving order over a copy, so that the queue may change meanwhile."""
        return iter([self._waiting[number][0] for _, number in self._order])

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: Request) -> bool:
        return request.number in self._waiting

    def add(self, request: Request, put_back_sec: float = 0.0) -> None:
        """Let a request wait.

        Args:
            request: which one.
            put_back_sec: it counts as one that arrived so much later.
        """
        self._waiting[request.number] = (request, put_back_sec)
        insort(self._order, self._rank(request.number))

    def remove(self, request: Request) -> None:
        """Take a request out, if it is there."""
        if request in self:
            del self._order[bisect_left(self._order, self._rank(request.number))]
            del self._waiting[request.number]

    def set_aging(self, aging_sec: float) -> None:
        """Put a new worth of a priority point in force, for those who wait too."""
        self._sec_per_point = aging_sec / 100.0
        self._order = sorted(self._rank(number) for number in self._waiting)

    def _rank(self, number: int) -> Rank:
        request, put_back_sec = self._waiting[number]
        return request.arrived_at + put_back_sec - request.priority * self._sec_per_point, number
