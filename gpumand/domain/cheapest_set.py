"""The cheapest set of items that is large enough: an inverted knapsack, small, but solved for every plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace

MAX_NODES = 4000
"""The search stops after this many partial sets with the best one found. Up to about fifteen items it is exhaustive."""


MAX_DEPTH = 300
"""The search recurses over at most this many items, far from Python's recursion limit; later items are ignored."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be given up.

    Attributes:
        index: its place in the caller's order; of equal sets the one found first in that order wins.
        cost: what losing it costs; above 0.
        mib: MiB that it frees; above 0.
    """

    index: int
    cost: float
    mib: int


def cheapest(items: Sequence[Item], need_mib: int, limit: int) -> list[int] | None:
    """Find the set of lowest cost that frees enough.

    Args:
        items: what can be given up.
        need_mib: MiB that the set must free.
        limit: the largest number of items.

    Returns:
        The indices of the items, ascending; None where no such set exists.
    """
    if need_mib <= 0:
        return []
    search = _Search(_undominated(items, limit))
    search.try_greedily(need_mib, limit)
    search.descend(0, need_mib, limit, 0.0)
    return None if search.best is None else sorted(search.best)


def _undominated(items: Sequence[Item], limit: int) -> list[Item]:
    """The items that a best set can contain, by cost for each MiB.

    Where ``limit`` others are as large and as cheap as an item, at least one of them is not in the set and can replace
    it.
    """
    kept: list[Item] = []
    cheapest_so_far: list[float] = []  # a heap of the ``limit`` lowest costs of larger items, negated
    for item in sorted(items, key=lambda one: (-one.mib, one.cost, one.index)):
        if len(cheapest_so_far) >= limit:
            if limit == 0 or -cheapest_so_far[0] <= item.cost:
                continue
            heapreplace(cheapest_so_far, -item.cost)
        else:
            heappush(cheapest_so_far, -item.cost)
        kept.append(item)
    return sorted(kept, key=lambda one: (one.cost / one.mib, one.index))


@dataclass(slots=True)
class _Search:
    """A depth-first branch and bound search."""

    items: list[Item]
    best: list[int] | None = None
    best_cost: float = float("inf")
    nodes: int = 0
    taken: list[Item] = field(default_factory=list)
    largest_mib: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.largest_mib = [0] * (len(self.items) + 1)
        for at in range(len(self.items) - 1, -1, -1):
            self.largest_mib[at] = max(self.largest_mib[at + 1], self.items[at].mib)

    def try_greedily(self, need_mib: int, limit: int) -> None:
        """Find a first bound: the largest items, the set most likely to be within the limit; and each item alone."""
        taken: list[Item] = []
        for item in sorted(self.items, key=lambda one: -one.mib)[:limit]:
            if sum(one.mib for one in taken) < need_mib:
                taken.append(item)
        self._consider(taken, need_mib)
        for item in self.items if limit else ():
            self._consider([item], need_mib)

    def _consider(self, taken: Sequence[Item], need_mib: int) -> None:
        cost = sum(one.cost for one in taken)
        if cost < self.best_cost and sum(one.mib for one in taken) >= need_mib:
            self.best, self.best_cost = [one.index for one in taken], cost

    def descend(self, at: int, need_mib: int, left: int, cost: float) -> None:
        """Take or leave the item ``at``, the ones before it being decided.

        Args:
            at: position of the next item.
            need_mib: MiB still missing.
            left: how many more items may be taken.
            cost: cost of the items taken so far.
        """
        if need_mib <= 0:
            if cost < self.best_cost:
                self.best, self.best_cost = [one.index for one in self.taken], cost
            return
        self.nodes += 1
        if at >= min(len(self.items), MAX_DEPTH) or self.nodes > MAX_NODES or need_mib > left * self.largest_mib[at]:
            return
        item = self.items[at]
        # Items are sorted by cost per MiB: no later one frees a MiB for less than this one.
        if cost + need_mib * (item.cost / item.mib) >= self.best_cost:
            return
        self.taken.append(item)
        self.descend(at + 1, need_mib - item.mib, left - 1, cost + item.cost)
        self.taken.pop()
        self.descend(at + 1, need_mib, left, cost)
