"""The cheapest set that is large enough: a knapsack turned round, small but to be solved at once and every time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace

MAX_NODES = 4000
"""So many partial sets are looked at; the best found by then is taken. Below some fifteen items none is missed."""


MAX_DEPTH = 300
"""So many items are decided upon, one inside the other, far from Python's limit; what comes after them is left."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that may go.

    Attributes:
        place: which one it is, in the caller's order; of equal sets the one found first in that order wins.
        value: what losing it costs; above 0.
        mib: what it gives back; above 0.
    """

    place: int
    value: float
    mib: int


def cheapest(items: Sequence[Item], need_mib: int, limit: int) -> list[int] | None:
    """Places of the set of at most ``limit`` items with the least value that gives ``need_mib``, in their order.

    None where no such set exists.
    """
    if need_mib <= 0:
        return []
    search = _Search(_undominated(items, limit))
    search.try_greedily(need_mib, limit)
    search.go(0, need_mib, limit, 0.0)
    return None if search.best is None else sorted(search.best)


def _undominated(items: Sequence[Item], limit: int) -> list[Item]:
    """Those that a best set can contain, by value for each MiB.

    Where ``limit`` others are as large and as cheap, at least one of them is not in the set and would do as well.
    """
    kept: list[Item] = []
    cheapest_so_far: list[float] = []  # a heap of the ``limit`` least values of larger items, negated
    for item in sorted(items, key=lambda one: (-one.mib, one.value, one.place)):
        if len(cheapest_so_far) >= limit:
            if limit == 0 or -cheapest_so_far[0] <= item.value:
                continue
            heapreplace(cheapest_so_far, -item.value)
        else:
            heappush(cheapest_so_far, -item.value)
        kept.append(item)
    return sorted(kept, key=lambda one: (one.value / one.mib, one.place))


@dataclass(slots=True)
class _Search:
    """Depth first, branch and bound."""

    items: list[Item]
    best: list[int] | None = None
    best_value: float = float("inf")
    nodes: int = 0
    taken: list[Item] = field(default_factory=list)
    largest_mib: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.largest_mib = [0] * (len(self.items) + 1)
        for at in range(len(self.items) - 1, -1, -1):
            self.largest_mib[at] = max(self.largest_mib[at + 1], self.items[at].mib)

    def try_greedily(self, need_mib: int, limit: int) -> None:
        """Something to beat: the largest, which is the set most likely to be within the limit; and each alone."""
        taken: list[Item] = []
        for item in sorted(self.items, key=lambda one: -one.mib)[:limit]:
            if sum(one.mib for one in taken) < need_mib:
                taken.append(item)
        self._note(taken, need_mib)
        for item in self.items if limit else ():
            self._note([item], need_mib)

    def _note(self, taken: Sequence[Item], need_mib: int) -> None:
        value = sum(one.value for one in taken)
        if value < self.best_value and sum(one.mib for one in taken) >= need_mib:
            self.best, self.best_value = [one.place for one in taken], value

    def go(self, at: int, need_mib: int, left: int, value: float) -> None:
        """With the items before ``at`` decided upon: take the next one, or leave it."""
        if need_mib <= 0:
            if value < self.best_value:
                self.best, self.best_value = [one.place for one in self.taken], value
            return
        self.nodes += 1
        if at >= min(len(self.items), MAX_DEPTH) or self.nodes > MAX_NODES or need_mib > left * self.largest_mib[at]:
            return
        item = self.items[at]
        # No set of the rest gives a MiB for less than the next item does.
        if value + need_mib * (item.value / item.mib) >= self.best_value:
            return
        self.taken.append(item)
        self.go(at + 1, need_mib - item.mib, left - 1, value + item.value)
        self.taken.pop()
        self.go(at + 1, need_mib, left, value)
