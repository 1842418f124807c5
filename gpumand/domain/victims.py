"""Who may be evicted, in which order, and how many of them it takes.

The rule named ``lru``: loaded consumers on the device, least recently used first, one never used before all others;
but never the target, one that the target can coexist with, one that manages its own VRAM, one that is pinned, leased,
at work by its own word (``busyness``), or being loaded or unloaded. The rule named ``adaptive`` spares the same, and
takes the set that is worth least.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpumand.domain import budget, busyness, cover, value
from gpumand.domain.consumer import Policy, Residency
from gpumand.domain.request import PlannedEviction, Spared
from gpumand.domain.residency import holds_model
from gpumand.domain.view import IN_VRAM, ConsumerState, View

EVICTABLE = frozenset({Residency.RESIDENT, Residency.UNKNOWN})
MOVING = frozenset({Residency.LOADING, Residency.UNLOADING})


@dataclass(frozen=True, slots=True)
class Choice:
    """The victims that were chosen.

    Attributes:
        suffices: whether they free enough together; when not, ``victims`` is empty: nobody is evicted in vain.
        victims: in the order of eviction.
        spared: who is on the device and is not a victim, and why.
    """

    suffices: bool
    victims: tuple[PlannedEviction, ...] = ()
    spared: tuple[Spared, ...] = ()


def choose(view: View, device: int, target: ConsumerState, deficit_mib: int, limit: int) -> Choice:
    """Choose at most ``limit`` victims that free at least ``deficit_mib``: a whole set, then without those not needed.

    By the policy in force: in LRU order, and where that takes more of them than allowed, the largest first; or the set
    that is worth least.
    """
    exempt = _exemptions(view, device, target)
    in_order = candidates(view, device, target)
    freed_mib = yields(view, device, in_order)
    pick = _worth_least if view.settings.policy is Policy.ADAPTIVE else _least_recent
    taken = pick(view, in_order, freed_mib, deficit_mib, limit)
    if taken is None:
        return Choice(suffices=False, spared=exempt)
    names = {state.name for state, _ in taken}
    kept = [Spared(state.name, "not needed: the others free enough") for state in in_order if state.name not in names]
    is_measured = view.devices[device].known
    planned = [_planned(state, freed_mib[state.name] if is_measured else None, why) for state, why in taken]
    return Choice(suffices=True, victims=tuple(planned), spared=(*exempt, *kept))


def _least_recent(
    view: View, in_order: list[ConsumerState], freed_mib: dict[str, int], deficit_mib: int, limit: int
) -> list[tuple[ConsumerState, str]] | None:
    """Those unused for longest, each with why it goes; None where none suffice."""
    largest_first = sorted(in_order, key=lambda state: (-freed_mib[state.name], _lru(state)))
    for order in (in_order, largest_first):
        taken = _prune(_take(order, freed_mib, deficit_mib), freed_mib, deficit_mib)
        if len(taken) <= limit and sum(freed_mib[state.name] for state in taken) >= deficit_mib:
            return [(state, _recency(state)) for state in taken]
    return None


def _worth_least(
    view: View, in_order: list[ConsumerState], freed_mib: dict[str, int], deficit_mib: int, limit: int
) -> list[tuple[ConsumerState, str]] | None:
    """The set that is worth least, each with why it goes; None where none suffices."""
    if deficit_mib <= 0:
        return []
    idle = value.pooled(view.consumers.values())
    worths = [value.worth(view, state, idle) for state in in_order]
    items = [
        cover.Item(place, worth.value, freed_mib[state.name])
        for place, (state, worth) in enumerate(zip(in_order, worths, strict=True))
        if freed_mib[state.name] > 0
    ]
    places = cover.cheapest(items, deficit_mib, limit)
    return None if places is None else [(in_order[place], worths[place].why) for place in places]


def candidates(view: View, device: int, target: ConsumerState) -> list[ConsumerState]:
    """Who may go, least recently used first."""
    free_to_go = [
        state
        for state in _loaded(view, device, target)
        if not (why_never(view, state, target) or _why_busy(view, state))
    ]
    return sorted(free_to_go, key=_lru)


def temporarily_spared(view: View, device: int, target: ConsumerState) -> list[ConsumerState]:
    """Who could go were it not in use at the moment: worth waiting for."""
    return [state for state in _in_the_way(view, device, target) if not busyness.is_given_up(state, view.now)]


def given_up(view: View, device: int, target: ConsumerState) -> list[ConsumerState]:
    """Who works on, is not evicted for that, and is not waited for any longer."""
    return [state for state in _in_the_way(view, device, target) if busyness.is_given_up(state, view.now)]


def _in_the_way(view: View, device: int, target: ConsumerState) -> list[ConsumerState]:
    in_use = [state for state in view.on_device(device) if _why_busy(view, state)]
    return [state for state in in_use if state.name != target.name and not why_never(view, state, target)]


def yields(view: View, device: int, states: Iterable[ConsumerState]) -> dict[str, int]:
    """MiB that each is expected to free, taken together.

    Where use cannot be attributed, several of them would each be credited with the same unattributed MiB; so what one
    is credited with is not there for the next.
    """
    sample = view.devices[device]
    loose_mib = budget.unattributed_mib(sample) if sample.known else None
    result = {}
    for state in states:
        freed_mib = budget.yield_mib(sample, state, loose_mib)
        if loose_mib is not None and budget.held_mib(sample, state) is None:
            loose_mib -= freed_mib
        result[state.name] = freed_mib
    return result


def _loaded(view: View, device: int, target: ConsumerState) -> list[ConsumerState]:
    """Who may hold memory there and is not another device's job to evict."""
    taken = {target.name} | {name for job in view.jobs.values() for name in job.evicting}
    return [one for one in view.on_device(device) if one.name not in taken and _may_hold(view, device, one)]


def _may_hold(view: View, device: int, state: ConsumerState) -> bool:
    """Loaded as far as anybody knows, or holding a model's worth of memory whatever it says of itself."""
    if state.residency in EVICTABLE:
        return True
    held_mib = view.devices[device].held_by(state.name)
    return state.residency not in MOVING and held_mib is not None and holds_model(state.spec, held_mib)


def _lru(state: ConsumerState) -> tuple[int, int, str]:
    """Never used first; then the longest unused; among equals the one that came first."""
    return state.last_used_usec, state.since_usec, state.name


def _take(in_order: Sequence[ConsumerState], freed_mib: dict[str, int], deficit_mib: int) -> list[ConsumerState]:
    taken: list[ConsumerState] = []
    for state in in_order:
        if deficit_mib <= 0:
            break
        if freed_mib[state.name] > 0:
            taken.append(state)
            deficit_mib -= freed_mib[state.name]
    return taken


def _prune(taken: list[ConsumerState], freed_mib: dict[str, int], deficit_mib: int) -> list[ConsumerState]:
    """Drop who turned out not to be needed, the most recently used of them first: they are worth most."""
    spare_mib = sum(freed_mib[state.name] for state in taken) - deficit_mib
    kept = list(taken)
    for state in sorted(taken, key=_lru, reverse=True):
        if freed_mib[state.name] <= spare_mib:
            kept.remove(state)
            spare_mib -= freed_mib[state.name]
    return kept


def _planned(state: ConsumerState, expected_mib: int | None, why: str) -> PlannedEviction:
    return PlannedEviction(state.name, expected_mib, method=str(state.spec.evict[0]), why=why)


def _recency(state: ConsumerState) -> str:
    return "least recently used" if state.last_used_usec else "never used"


def _exemptions(view: View, device: int, target: ConsumerState) -> tuple[Spared, ...]:
    holders = [state for state in view.on_device(device) if state.name != target.name and _holds(view, device, state)]
    whys = [(state.name, why_never(view, state, target) or _why_busy(view, state)) for state in holders]
    return tuple(Spared(name, why) for name, why in whys if why)


def _holds(view: View, device: int, state: ConsumerState) -> bool:
    return state.claimed or state.residency in IN_VRAM or bool(view.devices[device].held_by(state.name))


def why_never(view: View, state: ConsumerState, target: ConsumerState) -> str:
    """Why it is no victim whatever else happens; "" when it may be one."""
    if state.name in target.spec.can_coexist_with:
        return f"{target.name} can coexist with it"
    if state.spec.vram_managed:
        return "manages its own VRAM"
    if state.pinned:
        return "pinned"
    if not state.spec.evict:
        return "has no unload route and no unit"
    return "gave nothing back when it was evicted a moment ago" if state.name in view.evict_failed else ""


def works(view: View, state: ConsumerState) -> bool:
    """Whether nothing but its own work keeps it from being evicted."""
    return bool(busyness.why_spared(state, view.now)) and not _why_in_use(state)


def _why_busy(view: View, state: ConsumerState) -> str:
    """Why it is no victim at the moment; "" when it may be one."""
    return _why_in_use(state) or busyness.why_spared(state, view.now)


def _why_in_use(state: ConsumerState) -> str:
    """What is being done with it, by us or for a client; "" when nothing is."""
    if state.leases:
        return "leased" if state.leases == 1 else f"leased {state.leases} times"
    if state.residency is Residency.LOADING:
        return "loading"
    if state.claimed:
        return "may be loading on its last request"
    return "being unloaded" if state.residency is Residency.UNLOADING else ""
