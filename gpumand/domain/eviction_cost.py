"""The cost of evicting a consumer: the seconds that it is expected to take to bring it back.

The policy ``adaptive`` uses: cost = seconds to unload and to load again, times the probability that the consumer is
wanted soon. The probability comes from learned idle times, of the consumer itself and, where these are few, of all
consumers together (``reuse_prediction``). A consumer that a waiting request needs is certain to be wanted; the nearer
the request is to the head of the queue, the higher the cost.

The seconds are damped. Probabilities are estimates and seconds are facts: undamped, one consumer that is slow to load
and no longer used would push out all fast ones that are in use, which a single user notices most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.host_ram import eviction_method_now
from gpumand.domain.residency_states import Residency
from gpumand.domain.reuse_prediction import BUCKETS, IdleTimeHistogram
from gpumand.domain.view import ConsumerState, View

DAMPING = 0.7
"""The power to which seconds are raised. Anything from 0.4 to 1 gives nearly the same, except for single users."""

POOL_WEIGHT = 20.0
"""The idle times of all consumers together count as this many of the consumer's own."""

ASSUMED_MIB = 8192
"""The footprint by which the first load of a consumer is estimated while its own is unknown."""

MIN_COST = 0.001
"""Every eviction costs something, so that among consumers that cost nothing the fewest are evicted."""


@dataclass(frozen=True, slots=True)
class EvictionCost:
    """What evicting a consumer costs, and why.

    Attributes:
        reload_sec: seconds to unload it and to load it again.
        reuse_probability: probability that it is wanted soon; above 1 where a waiting request needs it.
    """

    reload_sec: float
    reuse_probability: float

    @property
    def value(self) -> float:
        """The expected cost: damped seconds times probability."""
        return max(MIN_COST, math.pow(self.reload_sec, DAMPING) * self.reuse_probability)

    @property
    def why(self) -> str:
        """The reason for choosing a victim of this cost, for messages."""
        is_waiting = self.reuse_probability > 1
        use = "a request is waiting for it" if is_waiting else f"{self.reuse_probability:.0%} likely to be used soon"
        return f"lowest eviction cost: {self.reload_sec:.1f} s to reload, {use}"


def pooled_idle_times(states: Iterable[ConsumerState]) -> IdleTimeHistogram:
    """The weighted idle times of all consumers, to be added to each one's own, which are few for a long time."""
    observed = [state.times.idle.counts for state in states if not state.times.idle.is_empty]
    counts = [sum(bucket) for bucket in zip(*observed, strict=True)] or [0.0] * BUCKETS
    return IdleTimeHistogram(tuple(counts)).scaled(POOL_WEIGHT)


def cost_of_evicting(view: View, state: ConsumerState, idle: IdleTimeHistogram) -> EvictionCost:
    """The cost of evicting a consumer now.

    Args:
        view: everything at this moment.
        state: the consumer.
        idle: idle times of all consumers, from ``pooled_idle_times``.
    """
    position, method = view.queue_positions.get(state.name), None
    if state.spec.parks and state.residency is not Residency.PARKED:
        method = eviction_method_now(view, state)  # without room in host RAM it is stopped, and starts cold
    if position is not None:
        return EvictionCost(evict_and_reload_sec(state, method), 1.0 + 1.0 / (1.0 + position))
    idle_sec = view.now - state.idle_since
    return EvictionCost(evict_and_reload_sec(state, method), state.times.idle.reuse_probability(idle_sec, idle))


def evict_and_reload_sec(state: ConsumerState, method: EvictionMethod | None = None) -> float:
    """Seconds to evict a consumer by a method, or by its first one, and to load it again."""
    if state.residency is Residency.PARKED:
        return _stop_parked_sec(state)
    method = method or state.spec.evict[0]
    return state.times.unload_sec(method) + state.times.load_sec(_size_mib(state), start_after(state, method))


def parked_cost(view: View, state: ConsumerState, idle: IdleTimeHistogram) -> EvictionCost:
    """The cost of having a consumer stopped instead of parked; see ``cost_of_evicting`` for the arguments."""
    probability = cost_of_evicting(view, state, idle).reuse_probability
    return EvictionCost(max(MIN_COST, _stop_parked_sec(state)), probability)


def _stop_parked_sec(state: ConsumerState) -> float:
    """Seconds lost by stopping a parked consumer: it has to be loaded in any case, but faster from host RAM."""
    cold_sec, parked_sec = (state.times.load_sec(_size_mib(state), start) for start in (Start.COLD, Start.PARKED))
    return state.times.unload_sec(EvictionMethod.UNIT_STOP) + max(0.0, cold_sec - parked_sec)


def _size_mib(state: ConsumerState) -> int:
    """MiB by which a first load is estimated."""
    return state.footprint_mib if state.footprint_known else ASSUMED_MIB


def start_after(state: ConsumerState, method: EvictionMethod) -> Start:
    """How the next load starts after an eviction by this method.

    A consumer that was unloaded by its route still runs, and may have kept its weights. One without a load route is
    loaded only by its first request, and counts as cold.
    """
    return Start.PARKED if method is EvictionMethod.HTTP and state.spec.load is not None else Start.COLD
