"""The expected time until a planned request is served, from learned times, and what its evictions will cost later.

Both are estimates for people and for placement on several hosts: no decision about VRAM depends on them. A consumer
that was never observed counts with the defaults of ``learning``.
"""

from __future__ import annotations

from gpumand.domain.assumed_times import Start
from gpumand.domain.consumer import EvictionMethod, UnitActivity
from gpumand.domain.decision import Decision
from gpumand.domain.eviction_cost import ASSUMED_MIB, pooled_idle_times, start_after
from gpumand.domain.lease import Lease
from gpumand.domain.request import PlannedEviction, Verdict
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View

LEFT_SHARE = 0.25
"""A lease or load that already takes longer than expected is assumed to go on for this share of the expected time."""


def expected_sec(view: View, consumer: str, decision: Decision) -> float | None:
    """Expected seconds until the grant: waits for leases and running loads, evictions one after the other, the load.

    Args:
        view: everything at the moment of the decision.
        consumer: the requested consumer.
        decision: what would be decided about the request.

    Returns:
        None for a refusal, and for a wait whose end is not known.
    """
    state = view.consumers[consumer]
    if decision.verdict is Verdict.REFUSE:
        return None
    evictions_sec = sum(_unload_sec(view, one) for one in decision.evictions)
    if decision.verdict is Verdict.GRANT:
        return evictions_sec + (_load_sec(state) if decision.load else 0.0)
    waits = [*_lease_waits(view, decision), *_load_waits(view, decision)]
    if not waits:
        return None
    is_present = state.residency in (Residency.RESIDENT, Residency.LOADING) or state.spec.reservation is not None
    return max(waits) + evictions_sec + (0.0 if is_present else _load_sec(state))


def victims_sec(view: View, decision: Decision) -> float:
    """Expected seconds that loading the victims again will cost: each load, times the probability that it is wanted."""
    if not decision.evictions:
        return 0.0
    idle = pooled_idle_times(view.consumers.values())
    total_sec = 0.0
    for one in decision.evictions:
        state = view.consumers[one.consumer]
        is_wanted = one.consumer in view.queue_positions
        probability = 1.0 if is_wanted else state.times.idle.reuse_probability(view.now - state.idle_since, idle)
        total_sec += probability * state.times.load_sec(_size_mib(state), _start_after(state, one))
    return total_sec


def _lease_waits(view: View, decision: Decision) -> list[float]:
    """Seconds that each lease in the way is expected to last still."""
    blocking = set(decision.leases)
    return [
        _lease_left_sec(view, lease)
        for leases in view.consumer_leases.values()
        for lease in leases
        if lease.id in blocking
    ]


def _lease_left_sec(view: View, lease: Lease) -> float:
    age_sec = max(0.0, (view.realtime_usec - lease.granted_usec) / 1e6)
    state = view.consumers.get(lease.consumer)
    hold_sec = state.times.hold_sec() if state is not None else 0.0
    left_sec = max(hold_sec - age_sec, LEFT_SHARE * hold_sec)
    if not lease.expires_usec:
        return left_sec
    return max(0.0, min(left_sec, (lease.expires_usec - view.realtime_usec) / 1e6))


def _load_waits(view: View, decision: Decision) -> list[float]:
    """Seconds that each running job on the devices is expected to take still."""
    jobs = {id(job): job for device, job in view.jobs.items() if device in decision.place}
    states = [view.consumers[job.consumer] for job in jobs.values() if job.consumer in view.consumers]
    return [_load_left_sec(view, state) for state in states]


def _load_left_sec(view: View, state: ConsumerState) -> float:
    load_sec = _load_sec(state)
    if state.residency is not Residency.LOADING or not state.since_usec:
        return load_sec
    age_sec = max(0.0, (view.realtime_usec - state.since_usec) / 1e6)
    return max(load_sec - age_sec, LEFT_SHARE * load_sec)


def _unload_sec(view: View, eviction: PlannedEviction) -> float:
    return view.consumers[eviction.consumer].times.unload_sec(EvictionMethod(eviction.method))


def _load_sec(state: ConsumerState) -> float:
    """Seconds to load it from its present state; a reservation has no load."""
    if state.spec.reservation is not None:
        return 0.0
    start = _start(state)
    observed = state.times.loads.get(start)
    if state.residency is not Residency.PARKED and (observed is None or not observed.count):
        # Without the weights in host RAM, a load of a running server is closer to a cold start than to a wake.
        return state.times.longest_load_sec(_size_mib(state))
    return state.times.load_sec(_size_mib(state), start)


def _start(state: ConsumerState) -> Start:
    """How a load of the consumer would start: a server that runs already only reads its weights."""
    if state.residency is Residency.PARKED:
        return Start.PARKED
    is_started_by_load = bool(state.spec.service) and state.unit_activity != UnitActivity.ACTIVE
    return Start.COLD if is_started_by_load else Start.PARKED


def _start_after(state: ConsumerState, eviction: PlannedEviction) -> Start:
    return start_after(state, EvictionMethod(eviction.method))


def _size_mib(state: ConsumerState) -> int:
    return state.footprint_mib if state.footprint_known else ASSUMED_MIB
