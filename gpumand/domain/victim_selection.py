"""Picks victims among the consumers that may be evicted: in LRU order, or the set with the lowest eviction cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpumand.domain import cheapest_set, cheapest_set_multi, eviction_cost
from gpumand.domain.consumer import Policy
from gpumand.domain.view import ConsumerState, View


@dataclass(frozen=True, slots=True)
class Candidate:
    """A consumer that can be evicted, the cost of that, and why it would be chosen."""

    state: ConsumerState
    cost: float
    why: str


Freed = Mapping[int, Mapping[str, int]]
"""MiB that each candidate frees, by device and name."""


def pick(
    view: View, in_order: list[ConsumerState], freed: Freed, short_mib: Mapping[int, int], limit: int
) -> list[Candidate] | None:
    """The victims by the policy in force; None where no set suffices."""
    if not short_mib:
        return []
    # A shortcut: where all candidates together free too little, no set needs to be searched for.
    if any(sum(freed[device].values()) < mib for device, mib in short_mib.items()):
        return None
    if len(short_mib) > 1:
        return _pick_for_several_devices(view, in_order, freed, short_mib, limit)
    ((device, missing_mib),) = short_mib.items()
    on_device = [state for state in in_order if state.name in freed[device]]
    pick_by_policy = _pick_cheapest if view.settings.policy is Policy.ADAPTIVE else _pick_least_recently_used
    return pick_by_policy(view, on_device, freed[device], missing_mib, limit)


def _pick_least_recently_used(
    view: View, in_order: list[ConsumerState], freed_mib: Mapping[str, int], missing_mib: int, limit: int
) -> list[Candidate] | None:
    largest_first = sorted(in_order, key=lambda state: (-freed_mib[state.name], lru_key(state)))
    # The largest first need the fewest victims: the fallback where LRU order takes more than allowed.
    for order in (in_order, largest_first):
        taken = _prune(_take(order, freed_mib, missing_mib), freed_mib, missing_mib)
        if len(taken) <= limit and sum(freed_mib[state.name] for state in taken) >= missing_mib:
            return [Candidate(state, 1.0, _recency(state)) for state in taken]
    return None


def _pick_cheapest(
    view: View, in_order: list[ConsumerState], freed_mib: Mapping[str, int], missing_mib: int, limit: int
) -> list[Candidate] | None:
    costs = _costs(view, in_order)
    items = [
        cheapest_set.Item(index, cost.value, freed_mib[state.name])
        for index, (state, cost) in enumerate(zip(in_order, costs, strict=True))
        if freed_mib[state.name] > 0
    ]
    indices = cheapest_set.cheapest(items, missing_mib, limit)
    # The reason is text, which would take as long for all candidates as their prices.
    return None if indices is None else [_priced(in_order[index], costs[index]) for index in indices]


def _costs(view: View, in_order: list[ConsumerState]) -> list[eviction_cost.EvictionCost]:
    idle = eviction_cost.pooled_idle_times(view.consumers.values())
    return [eviction_cost.cost_of_evicting(view, state, idle) for state in in_order]


def _priced(state: ConsumerState, cost: eviction_cost.EvictionCost) -> Candidate:
    return Candidate(state, cost.value, cost.why)


def _pick_for_several_devices(
    view: View, in_order: list[ConsumerState], freed: Freed, short_mib: Mapping[int, int], limit: int
) -> list[Candidate] | None:
    """The victims where memory is missing on several devices: one set for all of them."""
    is_adaptive = view.settings.policy is Policy.ADAPTIVE
    if is_adaptive:
        priced = [_priced(*one) for one in zip(in_order, _costs(view, in_order), strict=True)]
    else:
        priced = [Candidate(one, 1.0, _recency(one)) for one in in_order]
    items = [
        cheapest_set_multi.MultiDeviceItem(
            index, one.cost, tuple(freed[device].get(one.state.name, 0) for device in short_mib)
        )
        for index, one in enumerate(priced)
    ]
    items, needs = [one for one in items if any(one.mib)], tuple(short_mib.values())
    indices = None if is_adaptive else cheapest_set_multi.first_in_order(items, needs, limit)
    if indices is None:
        indices = cheapest_set_multi.cheapest_on_all(items, needs, limit)
    return None if indices is None else [priced[index] for index in indices]


def lru_key(state: ConsumerState) -> tuple[int, int, str]:
    """Sort key of the policy ``lru``: never used first, then the longest unused, then the longest in its residency."""
    return state.last_used_usec, state.since_usec, state.name


def _take(in_order: Sequence[ConsumerState], freed_mib: Mapping[str, int], missing_mib: int) -> list[ConsumerState]:
    """The first consumers of the order, until they free enough."""
    taken: list[ConsumerState] = []
    for state in in_order:
        if missing_mib <= 0:
            break
        if freed_mib[state.name] > 0:
            taken.append(state)
            missing_mib -= freed_mib[state.name]
    return taken


def _prune(taken: list[ConsumerState], freed_mib: Mapping[str, int], missing_mib: int) -> list[ConsumerState]:
    """Drop superfluous victims, the most recently used first: those are the likeliest to be used again."""
    spare_mib = sum(freed_mib[state.name] for state in taken) - missing_mib
    kept = list(taken)
    for state in sorted(taken, key=lru_key, reverse=True):
        if freed_mib[state.name] <= spare_mib:
            kept.remove(state)
            spare_mib -= freed_mib[state.name]
    return kept


def _recency(state: ConsumerState) -> str:
    return "least recently used" if state.last_used_usec else "never used"
