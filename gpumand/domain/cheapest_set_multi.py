"""The cheapest set of items that is large enough on several devices; ``cheapest_set`` is faster for a single one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gpumand.domain.cheapest_set import MAX_DEPTH, MAX_NODES

Mib = tuple[int, ...]
"""MiB on each device, in a fixed order of devices."""


@dataclass(frozen=True, slots=True)
class MultiDeviceItem:
    """Something that can be given up.

    Attributes:
        index: its place in the caller's order; of equal sets the one found first in that order wins.
        cost: what losing it costs; above 0.
        mib: MiB that it frees on each device.
    """

    index: int
    cost: float
    mib: Mib


def cheapest_on_all(items: Sequence[MultiDeviceItem], need_mib: Mib, limit: int) -> list[int] | None:
    """Find a set of low cost that frees enough on every device.

    With up to a dozen items the set has the lowest cost of all, and is found whenever one exists.

    Args:
        items: what can be given up.
        need_mib: MiB that the set must free on each device.
        limit: the largest number of items.

    Returns:
        The indices of the items, ascending; None where no set was found.
    """
    if max(need_mib, default=0) <= 0:
        return []
    items = [one for one in items if _useful_mib(one.mib, need_mib)]
    search = _Search(sorted(items, key=lambda one: (one.cost / _useful_mib(one.mib, need_mib), one.index)))
    # Two greedy sets give a first bound: the cheapest for each MiB first, and the largest first.
    for order in (search.items, sorted(search.items, key=lambda one: -_useful_mib(one.mib, need_mib))):
        search.consider(pruned(_take_in_order(order, need_mib), need_mib), need_mib, limit)
    search.descend(0, need_mib, limit, 0.0)
    return None if search.best is None else sorted(search.best)


def pruned(taken: Sequence[MultiDeviceItem], need_mib: Mib) -> list[MultiDeviceItem]:
    """Drop items without which enough is freed all the same, beginning with the last."""
    kept = list(taken)
    for item in reversed(taken):
        others = [one for one in kept if one is not item]
        if suffice(others, need_mib):
            kept = others
    return kept


def suffice(items: Sequence[MultiDeviceItem], need_mib: Mib) -> bool:
    """Whether these items free enough on every device."""
    return all(sum(item.mib[at] for item in items) >= mib for at, mib in enumerate(need_mib))


def _take_in_order(order: Sequence[MultiDeviceItem], need_mib: Mib) -> list[MultiDeviceItem]:
    """Take items in this order that still free something that is needed, until it is enough."""
    taken: list[MultiDeviceItem] = []
    for item in order:
        if _useful_mib(item.mib, need_mib):
            taken.append(item)
            need_mib = _subtract(need_mib, item.mib)
    return taken


def first_in_order(items: Sequence[MultiDeviceItem], need_mib: Mib, limit: int) -> list[int] | None:
    """Indices of the first items that free enough, without superfluous ones; None where ``limit`` is exceeded."""
    taken = pruned(_take_in_order(items, need_mib), need_mib)
    return [item.index for item in taken] if len(taken) <= limit and suffice(taken, need_mib) else None


def _useful_mib(mib: Mib, need_mib: Mib) -> int:
    """How much of what an item frees is needed, over all devices."""
    return sum(min(freed, max(0, needed)) for freed, needed in zip(mib, need_mib, strict=True))


def _subtract(need_mib: Mib, mib: Mib) -> Mib:
    return tuple(needed - freed for needed, freed in zip(need_mib, mib, strict=True))


@dataclass(slots=True)
class _Search:
    """A depth-first branch and bound search."""

    items: list[MultiDeviceItem]
    best: list[int] | None = None
    best_cost: float = float("inf")
    nodes: int = 0
    taken: list[MultiDeviceItem] = field(default_factory=list)
    rest_mib: list[Mib] = field(default_factory=list)

    def __post_init__(self) -> None:
        total = (0,) * len(self.items[0].mib) if self.items else ()
        self.rest_mib = [total]
        for item in reversed(self.items):
            total = tuple(sum(pair) for pair in zip(total, item.mib, strict=True))
            self.rest_mib.append(total)
        self.rest_mib.reverse()

    def consider(self, taken: Sequence[MultiDeviceItem], need_mib: Mib, limit: int) -> None:
        """Keep a set if it is the best so far."""
        cost = sum(one.cost for one in taken)
        if len(taken) <= limit and cost < self.best_cost and suffice(taken, need_mib):
            self.best, self.best_cost = [one.index for one in taken], cost

    def descend(self, at: int, need_mib: Mib, left: int, cost: float) -> None:
        """Take or leave the item ``at``, the ones before it being decided; see ``cheapest_set`` for the arguments."""
        if max(need_mib) <= 0:
            if cost < self.best_cost:
                self.best, self.best_cost = [one.index for one in self.taken], cost
            return
        self.nodes += 1
        if at >= min(len(self.items), MAX_DEPTH) or self.nodes > MAX_NODES or not left or cost >= self.best_cost:
            return
        # Even all remaining items together free too little on some device.
        if any(needed > freed for needed, freed in zip(need_mib, self.rest_mib[at], strict=True)):
            return
        item = self.items[at]
        if _useful_mib(item.mib, need_mib):
            self.taken.append(item)
            self.descend(at + 1, _subtract(need_mib, item.mib), left - 1, cost + item.cost)
            self.taken.pop()
        self.descend(at + 1, need_mib, left, cost)
