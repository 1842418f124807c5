"""Units and containers that several consumers share, such as a router with several models: a stop ends all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from gpumand.domain import busyness
from gpumand.domain.consumer import ConsumerSpec, Residency
from gpumand.domain.container import service_of
from gpumand.domain.view import ConsumerState, StopBlocker


def others_in_unit(consumers: Mapping[str, ConsumerState], state: ConsumerState) -> list[ConsumerState]:
    """The other consumers whose processes run in the same unit or container."""
    services = _services(state.spec)
    return [one for one in consumers.values() if services & _services(one.spec) and one.name != state.name]


def _services(spec: ConsumerSpec) -> set[str]:
    return {spec.unit, service_of(spec.controlled_container)} - {""}


def stop_blocker(consumers: Mapping[str, ConsumerState], state: ConsumerState, now: float) -> StopBlocker | None:
    """Why its unit must not be stopped to evict a consumer; None where no other consumer in the unit is in use.

    Args:
        consumers: all consumers.
        state: the consumer to be evicted.
        now: monotonic seconds.
    """
    for other in others_in_unit(consumers, state):
        if use := _use(other, now):
            return StopBlocker(f"{state.spec.service} also serves {other.name}, which is {use}", not other.pinned)
    return None


def with_stop_blockers(consumers: Mapping[str, ConsumerState], now: float) -> dict[str, ConsumerState]:
    """The consumers, those in a shared unit with the reason why it must not be stopped at the moment."""
    services = [service for state in consumers.values() for service in _services(state.spec)]
    if len(set(services)) == len(services):
        return dict(consumers)
    shared = {service for service, count in Counter(services).items() if count > 1}
    return {
        name: state.with_changes(stop_blocker=blocker)
        if shared & _services(state.spec) and (blocker := stop_blocker(consumers, state, now))
        else state
        for name, state in consumers.items()
    }


def _use(state: ConsumerState, now: float) -> str:
    if state.pinned:
        return "pinned"
    if state.leases:
        return "leased"
    if state.residency is Residency.LOADING:
        return "loading"
    return busyness.busy_exemption(state, now)
