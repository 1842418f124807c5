"""Parking: taking a consumer's VRAM back by a route that leaves its weights in host RAM, where there is room for them.

Host RAM is a second budget with the rule of the first: what is available, less a reserve, less what is promised to
parkings under way. Where a victim finds no room in it, parked consumers that are worth less than it are stopped first;
where there are none, it is stopped itself instead of being parked; and one that cannot be stopped stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpumand.domain import budget, eviction_cost, victims
from gpumand.domain.consumer import EvictionMethod, Policy, Residency
from gpumand.domain.device import Devices
from gpumand.domain.host_ram import fits, room_mib, stop_of, would_park
from gpumand.domain.request import PlannedEviction, Spared
from gpumand.domain.reuse_prediction import IdleTimes
from gpumand.domain.victims import Choice
from gpumand.domain.view import ConsumerState, View

NO_ROOM = "host RAM has no room to park it in, and it has no unit to stop"


def names(victims: Iterable[PlannedEviction]) -> tuple[str, ...]:
    """Those of the victims that are parked."""
    return tuple(one.consumer for one in victims if one.parks)


def choose(view: View, devices: Devices, target: ConsumerState, short_mib: Mapping[int, int], limit: int) -> Choice:
    """Choose victims as ``victims.choose`` does, with how each is evicted by what host RAM allows."""
    stay: set[str] = set()
    while True:
        choice = victims.choose(view, devices, target, short_mib, limit, without=stay)
        if not any(would_park(view.consumers[one.consumer]) for one in choice.victims):
            break
        planned = _Plan(view, devices, target, limit, choice).run()
        if not isinstance(planned, str):
            return replace(choice, victims=planned)
        stay.add(planned)
    there = [name for name in sorted(stay) if name not in {one.consumer for one in choice.victims}]
    return replace(choice, spared=(*choice.spared, *(Spared(name, NO_ROOM) for name in there)))


@dataclass(slots=True)
class _Plan:
    """Works out how each victim of a choice goes."""

    view: View
    devices: Devices
    target: ConsumerState
    limit: int
    choice: Choice

    def run(self) -> tuple[PlannedEviction, ...] | str:
        """The evictions in order; or the name of one that cannot go."""
        left_mib, planned = room_mib(self.view), list[PlannedEviction]()
        taken = {one.consumer for one in self.choice.victims}
        extra = self.limit - len(self.choice.victims)
        for one in self.choice.victims:
            state = self.view.consumers[one.consumer]
            if not would_park(state) or one.method != EvictionMethod.HTTP:
                planned.append(one)
                continue
            freed = [] if fits(state, left_mib) else self._freed_for(state, left_mib, taken)
            if freed is not None and len(freed) <= extra:
                planned += [_stopped_for(other, state) for other in freed]
                planned.append(replace(one, parks=True))
                extra -= len(freed)
                taken |= {other.name for other in freed}
                gained_mib = sum(other.host_mib for other in freed) - state.host_mib
                left_mib = None if left_mib is None else left_mib + gained_mib
            elif (stop := stop_of(state)) is not None:
                planned.append(replace(one, method=str(stop)))
            else:
                return state.name
        return tuple(planned)

    def _freed_for(
        self, state: ConsumerState, left_mib: int | None, taken: Collection[str]
    ) -> list[ConsumerState] | None:
        """Parked ones to be stopped so that it can be parked; None where it is better stopped itself, or must be."""
        if left_mib is None:
            return None
        freed: list[ConsumerState] = []
        worth = _worth(self.view)
        for other in sorted(self._parked(taken), key=worth):
            if left_mib >= state.host_mib:
                break
            if stop_of(state) is not None and worth(other) >= worth(state):
                return None
            if (gives_mib := budget.told_mib(other.host_mib)) is None:
                continue
            freed.append(other)
            left_mib += gives_mib
        return freed if left_mib >= state.host_mib else None

    def _parked(self, taken: Collection[str]) -> list[ConsumerState]:
        """Who may be stopped for the host RAM that it holds."""
        spoken_for = {*taken, self.target.name} | {name for job in self.view.jobs.values() for name in job.evicting}
        return [
            one
            for one in self.view.consumers.values()
            if one.residency is Residency.PARKED
            and one.name not in spoken_for
            and not victims.why_not(self.view, (*self.devices, *_quiet(self.view)), one, self.target)
        ]


def about_to_make_room(view: View, devices: Devices, target: ConsumerState, stuck: Iterable[str]) -> list[str]:
    """Who takes host RAM at the moment in which those who are stuck may be parked soon; none where that is in vain.

    What is being parked counts whole although some of it shows already; what is being woken gives its share back; and
    one that is parked may be stopped when what is done with it now is over.
    """
    left_mib, need_mib = room_mib(view), max(view.consumers[name].host_mib for name in stuck)
    going = {name for job in view.jobs.values() for name in job.parking}
    going |= {one.name for one in view.loading if one.spec.parks and one.name != target.name}
    parked = [one for one in view.consumers.values() if one.residency is Residency.PARKED and one.name != target.name]
    may_go = [one for one in parked if not victims.why_never(view, one, target)]
    going |= {one.name for one in may_go if victims.why_not(view, (*devices, *_quiet(view)), one, target)}
    others = (view.consumers[name] for name in going | {one.name for one in may_go})
    others_mib = sum(budget.told_mib(one.host_mib) or 0 for one in others)
    return sorted(going) if left_mib is not None and left_mib + others_mib >= need_mib else []


def _quiet(view: View) -> Devices:
    """Devices on which nothing is being loaded or evicted."""
    loading = {device for one in view.loading for device in one.devices}
    return tuple(device for device in view.devices if device not in view.jobs and device not in loading)


def _worth(view: View) -> Callable[[ConsumerState], tuple[Any, ...]]:
    """What is lost by stopping one that is parked, or is to be: by the policy in force, the least first."""
    if view.settings.policy is not Policy.ADAPTIVE:
        return victims.least_recently_used
    idle: IdleTimes = eviction_cost.pooled(view.consumers.values())
    return lambda state: (eviction_cost.parked_worth(view, state, idle).value, state.name)


def _stopped_for(state: ConsumerState, other: ConsumerState) -> PlannedEviction:
    why = f"parked, and its {state.host_mib} MiB of host RAM are needed to park {other.name}"
    return PlannedEviction(state.name, state.spec.residual_mib, str(EvictionMethod.UNIT_STOP), why)
