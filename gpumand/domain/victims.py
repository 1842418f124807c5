"""Chooses which consumers are evicted, in which order, and how many of them.

Policy ``lru``: loaded consumers on the device, least recently used first, one that was never used before all others.
Exempt are the target itself, consumers listed in its ``can_coexist_with``, and consumers that manage their own VRAM,
are pinned or leased, report work of their own (``busyness``), or are being loaded or unloaded. Policy ``adaptive``
exempts the same consumers, and takes the set with the lowest eviction cost (``eviction_cost``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpumand.domain import budget, busyness, claims
from gpumand.domain.device import Devices
from gpumand.domain.eviction_check import SLACK_MIB
from gpumand.domain.host_ram import NOTHING_TO_PARK, cannot_be_freed, stop_method
from gpumand.domain.request import PlannedEviction, SparedConsumer
from gpumand.domain.residency import holds_model
from gpumand.domain.residency_states import Residency
from gpumand.domain.victim_selection import Candidate, Freed, lru_key, pick
from gpumand.domain.view import IN_VRAM, ConsumerState, View

EVICTABLE = frozenset({Residency.RESIDENT, Residency.UNKNOWN})
HOLDING = EVICTABLE | {Residency.PARKED}
CHANGING = frozenset({Residency.LOADING, Residency.UNLOADING})


@dataclass(frozen=True, slots=True)
class Choice:
    """The victims that were chosen.

    Attributes:
        suffices: whether they free enough together; if not, ``victims`` is empty, so that nothing is evicted in vain.
        victims: in the order of eviction.
        spared: consumers on the devices that are not victims, and why.
        cost: eviction cost of the victims together; with ``lru`` 1 for each.
    """

    suffices: bool
    victims: tuple[PlannedEviction, ...] = ()
    spared: tuple[SparedConsumer, ...] = ()
    cost: float = 0.0


def choose(
    view: View,
    devices: Devices,
    target: ConsumerState,
    short_mib: Mapping[int, int],
    limit: int,
    excluded: Collection[str] = (),
) -> Choice:
    """Choose at most ``limit`` victims that free enough on each device together, none of them superfluous.

    The policy in force decides: LRU order, and the largest first where that takes more victims than allowed; or the set
    with the lowest cost. A consumer on several devices frees memory on all of them and counts once. Where too much
    would stay after the victims' first methods, those with a unit are stopped, as many as necessary.

    Args:
        view: everything at this moment.
        devices: the devices that the target takes.
        target: the consumer that needs the memory.
        short_mib: MiB that are missing, by device; devices where nothing is missing may be left out.
        limit: the largest number of victims.
        excluded: consumers that the caller does not want to be chosen.
    """
    exempt = _exemptions(view, devices, target)
    in_order = [one for one in candidates(view, devices, target) if one.name not in excluded]
    short_mib = {device: mib for device, mib in short_mib.items() if mib > 0}
    taken, stopped = pick(view, in_order, _freed(view, devices, in_order), short_mib, limit), frozenset[str]()
    # First without any stop: a consumer that keeps a residual or is parked is faster to load again than a stopped one.
    if taken is None and (stopped := freeing_more_when_stopped(in_order)):
        taken = pick(view, in_order, _freed(view, devices, in_order, stopped), short_mib, limit)
        stopped = _necessary_stops(view, [one.state for one in taken or ()], short_mib)
    if taken is None:
        return Choice(suffices=False, spared=exempt)
    names = {one.state.name for one in taken}
    kept = [
        SparedConsumer(state.name, "not needed: the other evictions free enough")
        for state in in_order
        if state.name not in names
    ]
    freed = _freed(view, devices, in_order, stopped)
    # Stops go first: were others parked before, one of those might turn out to need a stop after all.
    planned = [
        _planned(view, one, freed, stopped) for one in sorted(taken, key=lambda one: one.state.name not in stopped)
    ]
    return Choice(True, tuple(planned), (*exempt, *kept), sum(one.cost for one in taken))


def freeing_more_when_stopped(states: Iterable[ConsumerState]) -> frozenset[str]:
    """Consumers that free more when their unit is stopped than by their first method."""
    # After an unload by route at least a CUDA context may stay, whether it was measured before or not.
    return frozenset(one.name for one in states if budget.by_route(one) and stop_method(one) is not None)


def _necessary_stops(view: View, taken: Sequence[ConsumerState], short_mib: Mapping[int, int]) -> frozenset[str]:
    """Victims whose unit must be stopped to free enough; those with the smallest residual are spared that first."""
    stopped = freeing_more_when_stopped(taken)
    for state in sorted(taken, key=budget.residual_mib):
        fewer = stopped - {state.name}
        freed = _freed(view, tuple(short_mib), taken, fewer)
        if all(sum(freed[device].values()) >= mib for device, mib in short_mib.items()):
            stopped = fewer
    return stopped


def _freed(
    view: View, devices: Devices, states: Sequence[ConsumerState], stopped: frozenset[str] = frozenset()
) -> Freed:
    return {
        device: freeable_by_consumer(view, device, [one for one in states if view.is_on(one, device)], stopped)
        for device in devices
    }


def _expected_mib(view: View, state: ConsumerState, freed: Freed, stopped: frozenset[str]) -> int | None:
    """MiB that it should free on all its devices together; None where one of them has no reading."""
    devices = [device for device in (view.devices_of(state) or freed) if device in view.devices]
    if not all(view.devices[device].is_measured for device in devices):
        return None
    others = [device for device in devices if state.name not in freed.get(device, {})]
    elsewhere = sum(freeable_by_consumer(view, device, [state], stopped)[state.name] for device in others)
    # What is only reserved is not in use, so no reading will show it as freed.
    reclaimed = sum(budget.reclaimed_by_consumer(view, device).get(state.name, 0) for device in (*others, *freed))
    return elsewhere + sum(by_name.get(state.name, 0) for by_name in freed.values()) - reclaimed


def candidates(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Consumers that can be evicted for the target now, least recently used first."""
    evictable = [state for state in _loaded(view, devices, target) if not exemption(view, devices, state, target)]
    return sorted(evictable, key=lru_key)


def exemption(view: View, devices: Devices, state: ConsumerState, target: ConsumerState) -> str:
    """Why a consumer cannot be evicted for the target now; "" when it can."""
    return permanent_exemption(view, state, target) or _temporary_exemption(view, devices, state)


def temporarily_exempt(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Consumers that only their present use keeps from being evicted: requests wait for its end."""
    blockers = _blockers(view, devices, target)
    return [state for state in blockers if not busyness.is_busy_past_grace(state, view.now)]


def busy_past_grace(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Consumers that are still busy, are not evicted for that, and for which requests no longer wait."""
    return [state for state in _blockers(view, devices, target) if busyness.is_busy_past_grace(state, view.now)]


def _blockers(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    in_use = [state for state in view.consumers_on(devices) if _temporary_exemption(view, devices, state)]
    return [state for state in in_use if state.name != target.name and not permanent_exemption(view, state, target)]


def freeable_by_consumer(
    view: View, device: int, states: Iterable[ConsumerState], stopped: Collection[str] = ()
) -> dict[str, int]:
    """MiB that each consumer is expected to free on a device, all of them taken together.

    A reservation that ends with the eviction counts as freed: the readings do not show that memory in use yet.

    Args:
        view: everything at this moment.
        device: index of the device.
        states: the consumers, in the order in which unnamed memory is credited to them.
        stopped: names of those that are evicted by stopping their unit; the others by their first method.
    """
    sample = view.devices[device]
    unnamed_mib = budget.unattributed_mib(sample) if sample.is_measured else None
    beyond_left_mib = budget.unexplained_mib(view, device)
    reclaimed = budget.reclaimed_by_consumer(view, device)
    result = {}
    for state in states:
        method = stop_method(state) if state.name in stopped else None
        beyond_mib = budget.beyond_named_mib(sample, state, beyond_left_mib)
        beyond_left_mib -= beyond_mib
        freed_mib = budget.freeable_mib(sample, state, unnamed_mib, method, beyond_mib)
        is_unnamed = unnamed_mib is not None and budget.held_mib(sample, state) is None
        if is_unnamed and state.name in reclaimed:
            # Of the unnamed memory only what has grown since the claim can be its own.
            freed_mib = min(freed_mib, state.footprint_mib - reclaimed[state.name])
        # Memory that the driver does not attribute is credited once: otherwise every victim would seem to free it.
        if unnamed_mib is not None and is_unnamed:
            unnamed_mib -= freed_mib
        result[state.name] = freed_mib + reclaimed.get(state.name, 0)
    return result


def _loaded(view: View, devices: Devices, target: ConsumerState) -> list[ConsumerState]:
    """Consumers that may hold memory there and that no running job is about to evict."""
    taken = {target.name} | {name for job in view.jobs.values() for name in job.evicting}
    return [one for one in view.consumers_on(devices) if one.name not in taken and _may_hold(view, devices, one)]


def _may_hold(view: View, devices: Devices, state: ConsumerState) -> bool:
    """Whether it may be loaded: by its residency, or because it holds as much as a model, whatever it reports."""
    if state.residency in HOLDING or view.may_be_reclaimed(state):
        return True
    if state.residency in CHANGING:
        return False
    held = [view.devices[device].held_by(state.name) for device in devices if view.is_on(state, device)]
    if state.residency is Residency.FAILED:  # what a failed load has left behind, however little of a model
        return any(mib is not None and mib > state.spec.residual_mib + SLACK_MIB for mib in held)
    if any(mib is not None and holds_model(state.spec, mib) for mib in held):
        return True
    # What stays after an unload by route is freed by stopping the unit, which is done where that memory is needed.
    return any(held) and stop_method(state) is not None


def _planned(view: View, one: Candidate, freed: Freed, stopped: frozenset[str]) -> PlannedEviction:
    method = (stop_method(one.state) if one.state.name in stopped else None) or one.state.usable_methods[0]
    expected_mib = _expected_mib(view, one.state, freed, stopped)
    expected_mib = None if expected_mib is None else budget.reportable_mib(expected_mib)
    return PlannedEviction(one.state.name, expected_mib, method=str(method), why=one.why)


def _exemptions(view: View, devices: Devices, target: ConsumerState) -> tuple[SparedConsumer, ...]:
    holders = [
        state for state in view.consumers_on(devices) if state.name != target.name and _holds(view, devices, state)
    ]
    reasons = [(state.name, exemption(view, devices, state, target)) for state in holders]
    return tuple(SparedConsumer(name, reason) for name, reason in reasons if reason)


def _holds(view: View, devices: Devices, state: ConsumerState) -> bool:
    is_held = state.claimed or state.residency in IN_VRAM
    return is_held or any(view.devices[device].held_by(state.name) for device in devices)


def permanent_exemption(view: View, state: ConsumerState, target: ConsumerState) -> str:
    """Why a consumer is not evicted for the target, and waiting does not help; "" when there is no such reason."""
    if state.spec.reservation is not None and not state.claimed:
        return "held by a program that waits for its reservation"
    if state.name in target.spec.can_coexist_with:
        return f"listed in can_coexist_with of {target.name}"
    if state.spec.vram_managed:
        return "manages its own VRAM"
    if state.pinned:
        return "pinned"
    if (not state.usable_methods or cannot_be_freed(view, state)) and state.spec.reservation is None:
        return NOTHING_TO_PARK if state.usable_methods else _no_method(state)
    return "released no VRAM when it was evicted a moment ago" if state.name in view.evict_failed else ""


def _no_method(state: ConsumerState) -> str:
    """Why no eviction method can be used; "" where one can be used when others do not use its unit any more."""
    if state.stop_blocker is not None:
        return "" if state.stop_blocker.ends else state.stop_blocker.reason
    return "already parked, and has no unit to stop" if state.spec.evict else "has no unload route and no unit"


def is_only_busy(view: View, state: ConsumerState) -> bool:
    """Whether nothing but work of its own keeps the consumer from being evicted."""
    return bool(busyness.busy_exemption(state, view.now)) and not _use(view, state)


def only_has_turn(view: View, state: ConsumerState) -> bool:
    """Whether nothing but its turn keeps the consumer from being evicted."""
    return bool(_turn(view, state)) and not _use(view, state) and not busyness.busy_exemption(state, view.now)


def first_turn_end(view: View, states: Iterable[ConsumerState]) -> float | None:
    """When the first of these consumers loses its turn, in monotonic seconds; None where none has one."""
    ends = [until for state in states if (until := view.turn_until(state)) is not None]
    return min(ends, default=None)


def _turn(view: View, state: ConsumerState) -> str:
    """Why it is not evicted so soon after its load; "" when it has no turn."""
    return "was loaded a moment ago and is in use" if view.turn_until(state) is not None else ""


def _temporary_exemption(view: View, devices: Devices, state: ConsumerState) -> str:
    """Why it cannot be evicted at the moment; "" when it can."""
    return (
        _use(view, state)
        or busyness.busy_exemption(state, view.now)
        or _stop_blocker(state)
        or _job_on_other_device(view, devices, state)
        or _turn(view, state)
    )


def _stop_blocker(state: ConsumerState) -> str:
    """Why its unit, the only way left to evict it, must not be stopped at the moment; "" when it may be."""
    return state.stop_blocker.reason if state.stop_blocker is not None and not state.usable_methods else ""


def _job_on_other_device(view: View, devices: Devices, state: ConsumerState) -> str:
    """Why a consumer that spans several devices must wait: its eviction would free memory there in the middle of a job.

    A service that starts measures what is free on its device, and may abort when that changes (vllm#56830).
    """
    for device in view.devices_of(state):
        if device in devices:
            continue
        job = view.jobs.get(device)
        is_loading = any(device in one.devices for one in view.loading)
        if job is not None or is_loading:
            return f"is also on device {device}, where something is being loaded or evicted"
    return ""


def _use(view: View, state: ConsumerState) -> str:
    """What the consumer is in use for, by the daemon or by a client; "" when it is not."""
    if state.leases:
        return "leased" if state.leases == 1 else f"leased {state.leases} times"
    if state.residency is Residency.LOADING:
        return "loading"
    if state.claimed and not view.may_be_reclaimed(state):
        return claims.reserved_for(view, state)
    return "being unloaded" if state.residency is Residency.UNLOADING else ""
