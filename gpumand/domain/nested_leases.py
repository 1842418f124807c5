"""Leases of a client that requests another one: what is decided if they end for a while, and if they never do.

A client that keeps a lease while it waits for another consumer can wait for itself: what it waits for needs the memory
that its own lease protects. Such a request is recognised, so that it is refused at once instead of timing out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from gpumand.domain.residency_states import Residency
from gpumand.domain.turns import NO_TURN
from gpumand.domain.view import ConsumerState, StandingLease, View


def without_lease(view: View, lease: StandingLease) -> View:
    """The view as if this lease had ended, and its consumer were nothing but an ordinary victim."""
    state = view.consumers[lease.consumer]
    left = state.leases - 1
    is_claimed = left > 0 or state.residency is Residency.LOADING
    changed = state.with_changes(
        leases=left, turn=NO_TURN, claimed_at=state.claimed_at if is_claimed else None, idle_since=float("-inf")
    )
    taken = Counter(state.devices if lease.takes_slot else ())
    exclusive = {
        device: name
        for device, name in view.exclusive.items()
        if not (lease.exclusive and name == state.name and device in state.devices)
    }
    return replace(
        view,
        consumers={**view.consumers, state.name: changed},
        leases={device: count - taken[device] for device, count in view.leases.items()},
        exclusive=exclusive,
    )


def if_only_these_stand(view: View, leases: Sequence[StandingLease]) -> View:
    """The view as if everything had ended that ends by itself, except these leases.

    That is the best that a request can hope for while its client keeps them: no other lease, no load, no work of
    others, no turn. If it has to wait even then, it waits for these leases.
    """
    kept = Counter(lease.consumer for lease in leases)
    consumers = {name: _at_rest(state, kept[name]) for name, state in view.consumers.items()}
    return replace(
        view,
        consumers=consumers,
        leases=_by_device(view, (lease for lease in leases if lease.takes_slot)),
        exclusive={
            device: lease.consumer
            for lease in leases
            if lease.exclusive
            for device in view.consumers[lease.consumer].devices
        },
        jobs={},
        evict_failed=frozenset(),
        respects_turns=False,
    )


def _by_device(view: View, leases: Iterable[StandingLease]) -> dict[int, int]:
    return dict(Counter(device for lease in leases for device in view.consumers[lease.consumer].devices))


def _at_rest(state: ConsumerState, leases: int) -> ConsumerState:
    """The consumer with only this many leases, idle and neither loading nor unloading."""
    is_changing = state.residency in (Residency.LOADING, Residency.UNLOADING)
    return state.with_changes(
        leases=leases,
        claimed_at=state.claimed_at if leases else None,
        residency=Residency.RESIDENT if is_changing else state.residency,
        jobs=None,
        unload_deferred=False,
        direct_work=False,
        blocking_since=None,
        external_load=False,
    )
