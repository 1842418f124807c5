"""The order of waiting requests: priority, then arrival, and no request waits for ever."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpumand.domain.request import Request

Rank = tuple[float, int]


def virtual_arrival(arrived_at: float, priority: int, aging_sec: float) -> float:
    """When a request counts as having arrived; earlier ones are served first.

    Args:
        arrived_at: seconds of any clock that all requests share, with the delay of ``fairness``.
        priority: -100 to 100.
        aging_sec: seconds of waiting that are worth 100 points.
    """
    return arrived_at - priority * aging_sec / 100.0


class RequestQueue:
    """Waiting requests in the order in which they are served.

    One priority point is worth ``aging_sec / 100`` seconds of waiting for every request alike: a request of priority 50
    is treated as one that arrived half an ``aging_sec`` earlier. A higher priority goes first among requests that
    arrived together, and no stream of new requests overtakes a waiting one for ever: after twice ``aging_sec`` even
    priority -100 precedes every new request of +100. Since all requests age at the same rate, the order of two of them
    never changes, so that a sorted list is enough.
    """

    def __init__(self, aging_sec: float) -> None:
        self._aging_sec = aging_sec
        self._waiting: dict[int, tuple[Request, float]] = {}
        self._order: list[Rank] = []

    def __iter__(self) -> Iterator[Request]:
        """Iterate in serving order over a copy, so that the queue may change meanwhile."""
        return iter([self._waiting[number][0] for _, number in self._order])

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request: Request) -> bool:
        return request.number in self._waiting

    def add(self, request: Request, delay_sec: float = 0.0) -> int:
        """Add a waiting request, and return its place in the order.

        Args:
            request: the request.
            delay_sec: it counts as having arrived this many seconds later (see ``fairness``).
        """
        self._waiting[request.number] = (request, delay_sec)
        rank = self._rank(request.number)
        place = bisect_left(self._order, rank)
        self._order.insert(place, rank)
        return place

    def place(self, request: Request, delay_sec: float = 0.0) -> int:
        """The number of waiting requests that precede a request.

        Args:
            request: the request, which need not be waiting.
            delay_sec: as for ``add``, for one that is not waiting.
        """
        is_waiting = request in self
        rank = self._rank(request.number) if is_waiting else self._rank_of(request, delay_sec)
        return bisect_left(self._order, rank)

    def remove(self, request: Request) -> int | None:
        """Remove a request, and return its former place in the order; None = it was not in the queue."""
        if request not in self:
            return None
        place = bisect_left(self._order, self._rank(request.number))
        del self._order[place], self._waiting[request.number]
        return place

    def set_aging(self, aging_sec: float) -> None:
        """Change what a priority point is worth, for waiting requests too."""
        self._aging_sec = aging_sec
        self._order = sorted(self._rank(number) for number in self._waiting)

    def _rank(self, number: int) -> Rank:
        return self._rank_of(*self._waiting[number])

    def _rank_of(self, request: Request, delay_sec: float) -> Rank:
        return virtual_arrival(request.arrived_at + delay_sec, request.priority, self._aging_sec), request.number
