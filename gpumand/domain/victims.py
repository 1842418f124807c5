"""Who may be evicted, in which order, and how many of them it takes.

The rule named ``lru``: loaded consumers on the device, least recently used first, one never used before all others;
but never the target, one that the target can coexist with, one that manages its own VRAM, one that is pinned, leased,
at work by its own word (``busyness``), or being loaded or unloaded. The rule named ``adaptive`` spares the same, and
takes the set that is worth least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpumand.domain import budget, busyness, cheapest_set, cheapest_set_multi, eviction_cost
from gpumand.domain.consumer import EvictionMethod, Policy, Residency
from gpumand.domain.device import Devices
from gpumand.domain.request import PlannedEviction, Spared
from gpumand.domain.residency import holds_model
from gpumand.domain.view import IN_VRAM, ConsumerState, View

EVICTABLE = frozenset({Residency.RESIDENT, Residency.UNKNOWN})
HOLDING = EVICTABLE | {Residency.PARKED}
MOVING = frozenset({Residency.LOADING, Residency.UNLOADING})


@dataclass(frozen=True, slots=True)
class Choice:
    """The victims that were chosen.

    Attributes:
        suffices: whether they free enough together; when not, ``victims`` is empty: nobody is evicted in vain.
        victims: in the order of eviction.
        spared: who is on the devices and is not a victim, and why.
        cost: what the victims are worth together: by ``lru`` each the same.
    """

    suffices: bool
    victims: tuple[PlannedEviction, ...] = ()
    spared: tuple[Spared, ...] = ()
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class _Taken:
    """One that was picked: what it is worth and why it goes."""

    state: ConsumerState
    cost: float
    why: str


Freed = Mapping[int, Mapping[str, int]]
"""MiB that each candidate frees, by device and name."""


def choose(
    view: View,
    devices: Devices,
    target: ConsumerState,
    short_mib: Mapping[int, int],
    limit: int,
    without: Collection[str] = (),
) -> Choice:
    """Choose at most ``limit`` victims that free what is short on each device: a whole set, without those not needed.

    By the policy in force: in LRU order, and where that takes more of them than allowed, the largest first; or the set
    that is worth least. One that is on several devices frees memory on all of them and counts once. Where what stays
    after their first methods is too much, those who have a unit are stopped, as many as have to be.

    Args:
        view: everything at this moment.
        devices: those that the target is to be on.
        target: who needs the room.
        short_mib: MiB that are short, by device; devices where none are may be left out.
        limit: how many may go.
        without: who stays for reasons of the caller's.
    """
    exempt = _exemptions(view, devices, target)
    in_order = [one for one in candidates(view, devices, target) if one.name not in without]
    short_mib = {device: mib for device, mib in short_mib.items() if mib > 0}
    taken, stopped = _pick(view, in_order, _freed(view, devices, in_order), short_mib, limit), frozenset[str]()
    if taken is None and (stopped := stopped_whole(in_order)):
        taken = _pick(view, in_order, _freed(view, devices, in_order, stopped), short_mib, limit)
        stopped = _must_stop(view, [one.state for one in taken or ()], short_mib)
    if taken is None:
        return Choice(suffices=False, spared=exempt)
    names = {one.state.name for one in taken}
    kept = [Spared(state.name, "not needed: the others free enough") for state in in_order if state.name not in names]
    freed = _freed(view, devices, in_order, stopped)
    # Who is stopped goes first: were the others put to sleep before, one of them might be stopped after all.
    planned = [
        _planned(view, one, freed, stopped) for one in sorted(taken, key=lambda one: one.state.name not in stopped)
    ]
    return Choice(True, tuple(planned), (*exempt, *kept), sum(one.cost for one in taken))


def stopped_whole(states: Iterable[ConsumerState]) -> frozenset[str]:
    """Those whose units' stop gives more than their first method."""
    return frozenset(one.name for one in states if budget.stays_mib(one) and EvictionMethod.UNIT_STOP in one.methods)


def _must_stop(view: View, taken: Sequence[ConsumerState], short_mib: Mapping[int, int]) -> frozenset[str]:
    """Who of these must be stopped for it to be enough: whoever leaves least behind is let off first."""
    stopped = stopped_whole(taken)
    for state in sorted(taken, key=lambda one: one.spec.residual_mib):
        fewer = stopped - {state.name}
        freed = _freed(view, tuple(short_mib), taken, fewer)
        if all(sum(freed[device].values()) >= mib for device, mib in short_mib.items()):
            stopped = fewer
    return stopped


def _freed(
    view: View, devices: Devices, states: Sequence[ConsumerState], stopped: frozenset[str] = frozenset()
) -> Freed:
    return {device: yields(view, device, [one for one in states if one.on(device)], stopped) for device in devices}


def _pick(
    view: View, in_order: list[ConsumerState], freed: Freed, short_mib: Mapping[int, int], limit: int
) -> list[_Taken] | None:
    """The set, by the policy in force; None where none suffices."""
    if not short_mib:
        return []
    if any(sum(freed[device].values()) < mib for device, mib in short_mib.items()):
        return None  # all together are not enough: nobody need be weighed
    if len(short_mib) > 1:
        return _pick_on_all(view, in_order, freed, short_mib, limit)
    ((device, deficit_mib),) = short_mib.items()
    there = [state for state in in_order if state.name in freed[device]]
    pick = _worth_least if view.settings.policy is Policy.ADAPTIVE else _least_recent
    return pick(view, there, freed[device], deficit_mib, limit)


def _least_recent(
    view: View, in_order: list[ConsumerState], freed_mib: Mapping[str, int], deficit_mib: int, limit: int
) -> list[_Taken] | None:
    """Those unused for longest."""
    largest_first = sorted(in_order, key=lambda state: (-freed_mib[state.name], least_recently_used(state)))
    for order in (in_order, largest_first):
        taken = _prune(_take(order, freed_mib, deficit_mib), freed_mib, deficit_mib)
        if len(taken) <= limit and sum(freed_mib[state.name] for state in taken) >= deficit_mib:
            return [_Taken(state, 1.0, _recency(state)) for state in taken]
    return None


def _worth_least(
    view: View, in_order: list[ConsumerState], freed_mib: Mapping[str, int], deficit_mib: int, limit: int
) -> list[_Taken] | None:
    """The set that is worth least."""
    priced = _priced(view, in_order)
    items = [
        cheapest_set.Item(place, one.cost, freed_mib[one.state.name])
        for place, one in enumerate(priced)
        if freed_mib[one.state.name] > 0
    ]
    places = cheapest_set.cheapest(items, deficit_mib, limit)
    return None if places is None else [priced[place] for place in places]


def _priced(view: View, in_order: list[ConsumerState]) -> list[_Taken]:
    idle = eviction_cost.pooled(view.consumers.values())
    worths = [eviction_cost.worth(view, state, idle) for state in in_order]
    return [_Taken(state, worth.value, worth.why) for state, worth in zip(in_order, worths, strict=True)]


def _pick_on_all(
    view: View, in_order: list[ConsumerState], freed: Freed, short_mib: Mapping[int, int], limit: int
) -> list[_Taken] | None:
    """The same where several devices are short: one set for all of them."""
    is_adaptive = view.settings.policy is Policy.ADAPTIVE
    priced = _priced(view, in_order) if is_adaptive else [_Taken(one, 1.0, _recency(one)) for one in in_order]
    items = [
        cheapest_set_multi.WideItem(
            place, one.cost, tuple(freed[device].get(one.state.name, 0) for device in short_mib)
        )
        for place, one in enumerate(priced)
    ]
    items, needs = [one for one in items if any(one.mib)], tuple(short_mib.values())
    places = None if is_adaptive else cheapest_set_multi.in_order(items, needs, limit)
    if places is None:
        places = cheapest_set_multi.cheapest_on_all(items, needs, limit)
    return None if places is None else [priced[place] for place in places]


def _expected_mib(view: View, state: ConsumerState, freed: Freed, stopped: frozenset[str]) -> int | None:
    """What it should free on all devices it is on; None where one of them shows no figures."""
    there = [device for device in (state.devices or freed) if device in view.devices]
    if not all(view.devices[device].known for device in there):
        return None
    others = [device for device in there if state.name not in freed.get(device, {})]
    elsewhere = sum(yields(view, device, [state], stopped)[state.name] for device in others)
    return elsewhere + sum(by_name.get(state.name, 0) for by_name in freed.values())


def candidates(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Who may go, least recently used first."""
    free_to_go = [state for state in _loaded(view, devices, target) if not why_not(view, devices, state, target)]
    return sorted(free_to_go, key=least_recently_used)


def why_not(view: View, devices: Devices, state: ConsumerState, target: ConsumerState) -> str:
    """Why it is no victim now; "" when it may be one."""
    return why_never(view, state, target) or _why_busy(view, devices, state)


def temporarily_spared(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Who could go were it not in use at the moment: worth waiting for."""
    return [state for state in _in_the_way(view, devices, target) if not busyness.is_given_up(state, view.now)]


def given_up(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Who works on, is not evicted for that, and is not waited for any longer."""
    return [state for state in _in_the_way(view, devices, target) if busyness.is_given_up(state, view.now)]


def _in_the_way(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    in_use = [state for state in view.on(devices) if _why_busy(view, devices, state)]
    return [state for state in in_use if state.name != target.name and not why_never(view, state, target)]


def yields(view: View, device: int, states: Iterable[ConsumerState], stopped: Collection[str] = ()) -> dict[str, int]:
    """MiB that each is expected to free, taken together: by its first method, or by its unit's stop if it is stopped.

    Where use cannot be attributed, several of them would each be credited with the same unattributed MiB; so what one
    is credited with is not there for the next.
    """
    sample = view.devices[device]
    loose_mib = budget.unattributed_mib(sample) if sample.known else None
    result = {}
    for state in states:
        method = EvictionMethod.UNIT_STOP if state.name in stopped else None
        freed_mib = budget.yield_mib(sample, state, loose_mib, method)
        if loose_mib is not None and budget.held_mib(sample, state) is None:
            loose_mib -= freed_mib
        result[state.name] = freed_mib
    return result


def _loaded(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Who may hold memory there and is not another device's job to evict."""
    taken = {target.name} | {name for job in view.jobs.values() for name in job.evicting}
    return [one for one in view.on(devices) if one.name not in taken and _may_hold(view, devices, one)]


def _may_hold(view: View, devices: Devices, state: ConsumerState) -> bool:
    """Loaded as far as anybody knows, or holding a model's worth of memory whatever it says of itself."""
    if state.residency in HOLDING:
        return True
    if state.residency in MOVING:
        return False
    held = [view.devices[device].held_by(state.name) for device in devices if state.on(device)]
    return any(mib is not None and holds_model(state.spec, mib) for mib in held)


def least_recently_used(state: ConsumerState) -> tuple[int, int, str]:
    """Never used first; then the longest unused; among equals the one that came first."""
    return state.last_used_usec, state.since_usec, state.name


def _take(in_order: Sequence[ConsumerState], freed_mib: Mapping[str, int], deficit_mib: int) -> list[ConsumerState]:
    taken: list[ConsumerState] = []
    for state in in_order:
        if deficit_mib <= 0:
            break
        if freed_mib[state.name] > 0:
            taken.append(state)
            deficit_mib -= freed_mib[state.name]
    return taken


def _prune(taken: list[ConsumerState], freed_mib: Mapping[str, int], deficit_mib: int) -> list[ConsumerState]:
    """Drop who turned out not to be needed, the most recently used of them first: they are worth most."""
    spare_mib = sum(freed_mib[state.name] for state in taken) - deficit_mib
    kept = list(taken)
    for state in sorted(taken, key=least_recently_used, reverse=True):
        if freed_mib[state.name] <= spare_mib:
            kept.remove(state)
            spare_mib -= freed_mib[state.name]
    return kept


def _planned(view: View, one: _Taken, freed: Freed, stopped: frozenset[str]) -> PlannedEviction:
    method = EvictionMethod.UNIT_STOP if one.state.name in stopped else one.state.methods[0]
    expected_mib = _expected_mib(view, one.state, freed, stopped)
    expected_mib = None if expected_mib is None else budget.told_mib(expected_mib)
    return PlannedEviction(one.state.name, expected_mib, method=str(method), why=one.why)


def _recency(state: ConsumerState) -> str:
    return "least recently used" if state.last_used_usec else "never used"


def _exemptions(view: View, devices: Devices, target: ConsumerState) -> tuple[Spared, ...]:
    holders = [state for state in view.on(devices) if state.name != target.name and _holds(view, devices, state)]
    whys = [(state.name, why_never(view, state, target) or _why_busy(view, devices, state)) for state in holders]
    return tuple(Spared(name, why) for name, why in whys if why)


def _holds(view: View, devices: Devices, state: ConsumerState) -> bool:
    is_held = state.claimed or state.residency in IN_VRAM
    return is_held or any(view.devices[device].held_by(state.name) for device in devices)


def why_never(view: View, state: ConsumerState, target: ConsumerState) -> str:
    """Why it is no victim whatever else happens; "" when it may be one."""
    if state.name in target.spec.can_coexist_with:
        return f"{target.name} can coexist with it"
    if state.spec.vram_managed:
        return "manages its own VRAM"
    if state.pinned:
        return "pinned"
    if not state.methods:
        return "is parked already, and has no unit" if state.spec.evict else "has no unload route and no unit"
    return "gave nothing back when it was evicted a moment ago" if state.name in view.evict_failed else ""


def works(view: View, state: ConsumerState) -> bool:
    """Whether nothing but its own work keeps it from being evicted."""
    return bool(busyness.why_spared(state, view.now)) and not _why_in_use(state)


def _why_busy(view: View, devices: Devices, state: ConsumerState) -> str:
    """Why it is no victim at the moment; "" when it may be one."""
    return _why_in_use(state) or busyness.why_spared(state, view.now) or _why_not_beside(view, devices, state)


def _why_not_beside(view: View, devices: Devices, state: ConsumerState) -> str:
    """One that is on another device too would free memory there as well, where somebody may be measuring it."""
    for device in state.devices:
        if device in devices:
            continue
        job = view.jobs.get(device)
        is_loading = any(device in one.devices for one in view.loading)
        if job is not None or is_loading:
            return f"is on device {device} too, where something is being loaded or evicted"
    return ""


def _why_in_use(state: ConsumerState) -> str:
    """What is being done with it, by us or for a client; "" when nothing is."""
    if state.leases:
        return "leased" if state.leases == 1 else f"leased {state.leases} times"
    if state.residency is Residency.LOADING:
        return "loading"
    if state.claimed:
        return "may be loading on its last request"
    return "being unloaded" if state.residency is Residency.UNLOADING else ""
