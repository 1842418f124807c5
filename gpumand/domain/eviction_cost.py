"""What a resident consumer is worth: the seconds that evicting it will cost, as far as anybody can tell.

The rule named ``adaptive``: worth = seconds to unload and to load again, times the chance of being wanted soon. The
chance comes from the idle times that were learned, of the consumer itself and, where these are few, of all together
(``reuse``); what the queue waits for already is certain to be wanted, the sooner the dearer.

The seconds count damped. A chance is an estimate, seconds are facts: undamped, one dear consumer that nobody wants any
more pushes out all the cheap ones that are in use, which is what a single user feels first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gpumand.domain.consumer import EvictionMethod, Residency
from gpumand.domain.host_ram import method_now
from gpumand.domain.learning import Start
from gpumand.domain.reuse_prediction import BUCKETS, IdleTimes
from gpumand.domain.view import ConsumerState, View

DAMPING = 0.7
"""The power to which seconds count. Anything from 0.4 to 1 gives nearly the same, but for single users."""

POOL_WEIGHT = 20.0
"""The idle times of all consumers count as so many of its own."""

TYPICAL_MIB = 8192
"""What one is taken to load of which nobody knows how much it needs."""

LEAST_SEC = 0.001
"""Nothing is free: among those that cost nothing the fewest go."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What a consumer is worth, and why.

    Attributes:
        cost_sec: to unload it and to load it again.
        chance: of being wanted soon; above 1 for what is waited for.
    """

    cost_sec: float
    chance: float

    @property
    def value(self) -> float:
        """What evicting it is expected to cost, damped."""
        return max(LEAST_SEC, math.pow(self.cost_sec, DAMPING) * self.chance)

    @property
    def why(self) -> str:
        """In a few words, for people."""
        wanted = "waited for" if self.chance > 1 else f"wanted soon at {self.chance:.0%}"
        return f"worth least: {self.cost_sec:.1f} s to bring back, {wanted}"


def pooled(states: Iterable[ConsumerState]) -> IdleTimes:
    """The idle times of all together, to be added to each one's own: of one alone there are too few for long."""
    counts = [0.0] * BUCKETS
    for state in states:
        if state.times.idle.is_empty:
            continue
        for place, count in enumerate(state.times.idle.counts):
            counts[place] += count
    return IdleTimes(tuple(counts)).scaled(POOL_WEIGHT)


def worth(view: View, state: ConsumerState, idle: IdleTimes) -> Worth:
    """What a consumer is worth to those who may want it.

    Args:
        view: everything at this moment.
        state: the consumer.
        idle: idle times of all consumers, as ``pooled`` gives them.
    """
    place, method = view.wanted.get(state.name), None
    if state.spec.parks and state.residency is not Residency.PARKED:
        method = method_now(view, state)  # without room in host RAM it is stopped, and starts cold
    if place is not None:
        return Worth(bring_back_sec(state, method), 1.0 + 1.0 / (1.0 + place))
    return Worth(bring_back_sec(state, method), state.times.idle.chance(view.now - state.idle_since, idle))


def bring_back_sec(state: ConsumerState, method: EvictionMethod | None = None) -> float:
    """Seconds to evict it, by a method or by its first one, and to have it back."""
    if state.residency is Residency.PARKED:
        return _parked_sec(state)
    method = method or state.spec.evict[0]
    return state.times.unload_sec(method) + state.times.load_sec(_size_mib(state), start_after(state, method))


def parked_worth(view: View, state: ConsumerState, idle: IdleTimes) -> Worth:
    """What it is worth to have a consumer parked rather than stopped."""
    return Worth(max(LEAST_SEC, _parked_sec(state)), worth(view, state, idle).chance)


def _parked_sec(state: ConsumerState) -> float:
    """Seconds lost by stopping one that is parked: it would have to be loaded anyhow, but from host RAM."""
    cold_sec, parked_sec = (state.times.load_sec(_size_mib(state), start) for start in (Start.COLD, Start.PARKED))
    return state.times.unload_sec(EvictionMethod.UNIT_STOP) + max(0.0, cold_sec - parked_sec)


def _size_mib(state: ConsumerState) -> int:
    """What a first load is estimated by; no more than an estimate hangs on it."""
    return state.footprint_mib if state.footprint_known else TYPICAL_MIB


def start_after(state: ConsumerState, method: EvictionMethod) -> Start:
    """Where its next load will begin: one whose route took its memory still runs, and may have kept its weights."""
    return Start.PARKED if method is EvictionMethod.HTTP and state.spec.load is not None else Start.COLD
