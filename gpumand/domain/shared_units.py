"""Units and containers that several consumers share, such as a router with several models: a stop ends all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from gpumand.domain import busyness
from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.container import service_of
from gpumand.domain.device import Sample
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, StopBlocker

Groups = Collection[frozenset[str]]
"""Names of consumers that the same processes were found to belong to, such as a unit and the container that it runs."""


def sharing_in(samples: Iterable[Sample]) -> frozenset[frozenset[str]]:
    """The groups of consumers that share a process of these samples."""
    return frozenset(frozenset(process.shared) for sample in samples for process in sample.processes if process.shared)


def others_in_unit(
    consumers: Mapping[str, ConsumerState], state: ConsumerState, together: Groups = ()
) -> list[ConsumerState]:
    """The other consumers whose processes run in the same unit or container.

    Args:
        consumers: all consumers.
        state: the consumer.
        together: groups of consumers whose processes were found to be the same.
    """
    services = _services(state.spec)
    names = frozenset().union(*(group for group in together if state.name in group))
    others = (one for one in consumers.values() if one.name != state.name)
    return [one for one in others if services & _services(one.spec) or one.name in names]


def _services(spec: ConsumerSpec) -> set[str]:
    # Also a container that only the other consumer's eviction methods stop: the stop ends the processes of both.
    return {spec.unit, service_of(spec.container)} - {""}


def stop_blocker(
    consumers: Mapping[str, ConsumerState], state: ConsumerState, now: float, together: Groups = ()
) -> StopBlocker | None:
    """Why its unit must not be stopped to evict a consumer; None where no other consumer in the unit is in use.

    Args:
        consumers: all consumers.
        state: the consumer to be evicted.
        now: monotonic seconds.
        together: groups of consumers whose processes were found to be the same.
    """
    for other in others_in_unit(consumers, state, together):
        if use := _use(other, now):
            return StopBlocker(f"{state.spec.service} also serves {other.name}, which is {use}", not other.pinned)
    return None


def in_shared_units(consumers: Mapping[str, ConsumerState]) -> frozenset[str]:
    """Names of the consumers with a unit or container that another one names too; they depend on specs only."""
    services = {name: _services(state.spec) for name, state in consumers.items()}
    count = Counter(service for named in services.values() for service in named)
    return frozenset(name for name, named in services.items() if any(count[service] > 1 for service in named))


def with_stop_blockers(
    consumers: Mapping[str, ConsumerState], now: float, together: Groups = (), in_shared: frozenset[str] | None = None
) -> dict[str, ConsumerState]:
    """The consumers, those in a shared unit with the reason why it must not be stopped at the moment.

    Args:
        consumers: all consumers.
        now: monotonic seconds.
        together: groups of consumers whose processes were found to be the same.
        in_shared: the result of ``in_shared_units``, if it is known.
    """
    result = dict(consumers)
    names = (in_shared_units(consumers) if in_shared is None else in_shared).union(*together)
    for name in names & result.keys() if names else ():
        if blocker := stop_blocker(consumers, consumers[name], now, together):
            result[name] = consumers[name].with_changes(stop_blocker=blocker)
    return result


def _use(state: ConsumerState, now: float) -> str:
    if state.pinned:
        return "pinned"
    if state.leases:
        return "leased"
    if state.residency is Residency.LOADING:
        return "loading"
    return busyness.busy_exemption(state, now)
