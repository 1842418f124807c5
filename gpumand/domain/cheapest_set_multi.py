"""The cheapest set that is large enough on several devices at once; ``cover`` does the same for one, and faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gpumand.domain.cheapest_set import MAX_DEPTH, MAX_NODES

Mib = tuple[int, ...]
"""One figure for each device."""


@dataclass(frozen=True, slots=True)
class WideItem:
    """Something that may go.

    Attributes:
        place: which one it is, in the caller's order; of equal sets the one found first in that order wins.
        value: what losing it costs; above 0.
        mib: what it gives back on each device.
    """

    place: int
    value: float
    mib: Mib


def cheapest_on_all(items: Sequence[WideItem], need_mib: Mib, limit: int) -> list[int] | None:
    """Places of a set of at most ``limit`` items with the least value that gives ``need_mib`` on every device.

    None where none was found. Up to a dozen items it is the best there is, and found where there is one.
    """
    if max(need_mib, default=0) <= 0:
        return []
    items = [one for one in items if _useful(one.mib, need_mib)]
    search = _Search(sorted(items, key=lambda one: (one.value / _useful(one.mib, need_mib), one.place)))
    for order in (search.items, sorted(search.items, key=lambda one: -_useful(one.mib, need_mib))):
        search.note(pruned(_first(order, need_mib), need_mib), need_mib, limit)
    search.go(0, need_mib, limit, 0.0)
    return None if search.best is None else sorted(search.best)


def pruned(taken: Sequence[WideItem], need_mib: Mib) -> list[WideItem]:
    """Those without whom it would not be enough; the last of them are let off first."""
    kept = list(taken)
    for item in reversed(taken):
        others = [one for one in kept if one is not item]
        if suffice(others, need_mib):
            kept = others
    return kept


def suffice(items: Sequence[WideItem], need_mib: Mib) -> bool:
    """Whether these give enough on every device."""
    return all(sum(item.mib[at] for item in items) >= mib for at, mib in enumerate(need_mib))


def _first(order: Sequence[WideItem], need_mib: Mib) -> list[WideItem]:
    """In this order, those that still give something that is needed, until it is enough."""
    taken: list[WideItem] = []
    for item in order:
        if _useful(item.mib, need_mib):
            taken.append(item)
            need_mib = _less(need_mib, item.mib)
    return taken


def in_order(items: Sequence[WideItem], need_mib: Mib, limit: int) -> list[int] | None:
    """Places of the first that are enough together, without those not needed; None where they are more than allowed."""
    taken = pruned(_first(items, need_mib), need_mib)
    return [item.place for item in taken] if len(taken) <= limit and suffice(taken, need_mib) else None


def _useful(mib: Mib, need_mib: Mib) -> int:
    return sum(min(gives, max(0, needs)) for gives, needs in zip(mib, need_mib, strict=True))


def _less(need_mib: Mib, mib: Mib) -> Mib:
    return tuple(needs - gives for needs, gives in zip(need_mib, mib, strict=True))


@dataclass(slots=True)
class _Search:
    """Depth first, branch and bound."""

    items: list[WideItem]
    best: list[int] | None = None
    best_value: float = float("inf")
    nodes: int = 0
    taken: list[WideItem] = field(default_factory=list)
    rest_mib: list[Mib] = field(default_factory=list)

    def __post_init__(self) -> None:
        total = (0,) * len(self.items[0].mib) if self.items else ()
        self.rest_mib = [total]
        for item in reversed(self.items):
            total = tuple(sum(pair) for pair in zip(total, item.mib, strict=True))
            self.rest_mib.append(total)
        self.rest_mib.reverse()

    def note(self, taken: Sequence[WideItem], need_mib: Mib, limit: int) -> None:
        """A set that may be the best so far."""
        value = sum(one.value for one in taken)
        if len(taken) <= limit and value < self.best_value and suffice(taken, need_mib):
            self.best, self.best_value = [one.place for one in taken], value

    def go(self, at: int, need_mib: Mib, left: int, value: float) -> None:
        """With the items before ``at`` decided upon: take the next one, or leave it."""
        if max(need_mib) <= 0:
            if value < self.best_value:
                self.best, self.best_value = [one.place for one in self.taken], value
            return
        self.nodes += 1
        if at >= min(len(self.items), MAX_DEPTH) or self.nodes > MAX_NODES or not left or value >= self.best_value:
            return
        if any(needs > gives for needs, gives in zip(need_mib, self.rest_mib[at], strict=True)):
            return
        item = self.items[at]
        if _useful(item.mib, need_mib):
            self.taken.append(item)
            self.go(at + 1, _less(need_mib, item.mib), left - 1, value + item.value)
            self.taken.pop()
        self.go(at + 1, need_mib, left, value)
