"""Parking: eviction from VRAM by a route that leaves the weights in host RAM, where host RAM has room for them.

Host RAM is a second budget with the rule of the first: what is available, less a reserve, less what is reserved for
consumers that are being parked. Where a victim finds no room in it, parked consumers with a lower cost are stopped
first. Where there are none, the victim itself is stopped instead of parked. A victim that cannot be stopped is not
evicted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain import budget, eviction_cost, victims
from gpumand.domain.consumer import EvictionMethod, Policy
from gpumand.domain.device import Devices
from gpumand.domain.host_ram import can_park, room_mib, shares_host_ram, stop_method, would_park
from gpumand.domain.request import PlannedEviction, SparedConsumer
from gpumand.domain.residency_states import Residency
from gpumand.domain.reuse_prediction import IdleTimeHistogram
from gpumand.domain.victim_selection import lru_key
from gpumand.domain.victims import Choice
from gpumand.domain.view import ConsumerState, View

NO_HOST_RAM = "host RAM has no room to park it, and it has no unit to stop"


def parked_victims(victims: Iterable[PlannedEviction]) -> tuple[str, ...]:
    """Names of the victims that are parked."""
    return tuple(one.consumer for one in victims if one.parks)


def choose(view: View, devices: Devices, target: ConsumerState, short_mib: Mapping[int, int], limit: int) -> Choice:
    """Choose victims as ``victims.choose`` does, and by which method each is evicted given the free host RAM."""
    excluded: set[str] = set()
    while True:
        choice = victims.choose(view, devices, target, short_mib, limit, excluded=excluded)
        if not any(would_park(view.consumers[one.consumer]) for one in choice.victims):
            break
        planned = _Plan(view, devices, target, limit, choice).run()
        if not isinstance(planned, str):
            return replace(choice, victims=planned)
        # One victim can be neither parked nor stopped: choose again without it.
        excluded.add(planned)
    kept = [name for name in sorted(excluded) if name not in {one.consumer for one in choice.victims}]
    return replace(choice, spared=(*choice.spared, *(SparedConsumer(name, NO_HOST_RAM) for name in kept)))


@dataclass(slots=True)
class _Plan:
    """Works out how each victim of a choice is evicted."""

    view: View
    devices: Devices
    target: ConsumerState
    limit: int
    choice: Choice

    def run(self) -> tuple[PlannedEviction, ...] | str:
        """The evictions in order; or the name of a victim that can be neither parked nor stopped."""
        left_mib, planned = room_mib(self.view), list[PlannedEviction]()
        taken = {one.consumer for one in self.choice.victims}
        extra = self.limit - len(self.choice.victims)
        for one in self.choice.victims:
            state = self.view.consumers[one.consumer]
            if not would_park(state) or one.method != EvictionMethod.HTTP:
                planned.append(one)
                continue
            stopped = [] if can_park(self.view, state, left_mib) else self._stopped_for(state, left_mib, taken)
            if stopped is not None and len(stopped) <= extra:
                # The stops must come first: only then host RAM has room when the victim is parked.
                planned += [_planned_stop(other, state) for other in stopped]
                planned.append(replace(one, parks=True))
                extra -= len(stopped)
                taken |= {other.name for other in stopped}
                gained_mib = sum(other.host_mib for other in stopped) - state.host_mib
                left_mib = None if left_mib is None else left_mib + gained_mib
            elif (stop := stop_method(state)) is not None:
                planned.append(replace(one, method=str(stop)))
            else:
                return state.name
        return tuple(planned)

    def _stopped_for(
        self, state: ConsumerState, left_mib: int | None, taken: Collection[str]
    ) -> list[ConsumerState] | None:
        """Parked consumers to stop so that ``state`` can be parked; None where stopping it is better, or necessary."""
        if left_mib is None or shares_host_ram(self.view, state):
            return None
        stopped: list[ConsumerState] = []
        cost_key = _parked_cost_key(self.view)
        for other in sorted(self._parked(taken), key=cost_key):
            if left_mib >= state.host_mib:
                break
            # Cheaper to stop the victim itself than a parked consumer that costs at least as much.
            if stop_method(state) is not None and cost_key(other) >= cost_key(state):
                return None
            if (gained_mib := budget.reportable_mib(other.host_mib)) is None:
                continue
            stopped.append(other)
            left_mib += gained_mib
        return stopped if left_mib >= state.host_mib else None

    def _parked(self, taken: Collection[str]) -> list[ConsumerState]:
        """Consumers that may be stopped for the host RAM that they hold."""
        unavailable = {*taken, self.target.name} | {name for job in self.view.jobs.values() for name in job.evicting}
        return [
            one
            for one in self.view.consumers.values()
            if one.residency is Residency.PARKED
            and one.name not in unavailable
            and not victims.exemption(self.view, (*self.devices, *_idle_devices(self.view)), one, self.target)
        ]


def consumers_freeing_host_ram(
    view: View, devices: Devices, target: ConsumerState, unparkable: Iterable[str]
) -> list[str]:
    """Consumers whose use of host RAM ends soon, where that would give the ``unparkable`` enough room; else none.

    A consumer that is being parked counts whole, although a part of it shows already. One that is being woken returns
    its share. One that is parked and in use can be stopped when that use has ended.
    """
    left_mib, need_mib = room_mib(view), max(view.consumers[name].host_mib for name in unparkable)
    changing = {name for job in view.jobs.values() for name in job.parking}
    changing |= {one.name for one in view.loading if one.spec.parks and one.name != target.name}
    parked = [one for one in view.consumers.values() if one.residency is Residency.PARKED and one.name != target.name]
    stoppable = [one for one in parked if not victims.permanent_exemption(view, one, target)]
    reachable = (*devices, *_idle_devices(view))
    changing |= {one.name for one in stoppable if victims.exemption(view, reachable, one, target)}
    others = (view.consumers[name] for name in changing | {one.name for one in stoppable})
    others_mib = sum(budget.reportable_mib(one.host_mib) or 0 for one in others)
    return sorted(changing) if left_mib is not None and left_mib + others_mib >= need_mib else []


def _idle_devices(view: View) -> Devices:
    """Devices on which nothing is being loaded or evicted."""
    loading = {device for one in view.loading for device in one.devices}
    return tuple(device for device in view.devices if device not in view.jobs and device not in loading)


def _parked_cost_key(view: View) -> Callable[[ConsumerState], tuple[Any, ...]]:
    """Sort key by what is lost when a consumer is stopped that is parked, or is to be; by the policy in force."""
    if view.settings.policy is not Policy.ADAPTIVE:
        return lru_key
    idle: IdleTimeHistogram = eviction_cost.pooled_idle_times(view.consumers.values())
    return lambda state: (eviction_cost.parked_cost(view, state, idle).value, state.name)


def _planned_stop(state: ConsumerState, other: ConsumerState) -> PlannedEviction:
    why = f"parked, and its {state.host_mib} MiB of host RAM are needed to park {other.name}"
    return PlannedEviction(
        state.name, state.spec.residual_mib, str(stop_method(state) or EvictionMethod.UNIT_STOP), why
    )
