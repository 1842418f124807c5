"""Decisions to wait for leases, which name the leases in the way so that their holders can be informed."""

from __future__ import annotations

from collections.abc import Sequence

from gpumand.domain.decision import Decision, wait
from gpumand.domain.device import Devices
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.lease_wording import how_to_release
from gpumand.domain.view import ConsumerState, View


def wait_for_leases(
    view: View, place: Devices, message: str, states: Sequence[ConsumerState], short_mib: int = 0
) -> Decision:
    """A decision to wait until the leases on these consumers end.

    Args:
        view: everything at this moment.
        place: the devices that the request would take.
        message: what stands in the way, as a clause.
        states: the consumers; one without a lease, such as one that is loading, is waited for without advice.
        short_mib: MiB that are missing, where footprints decide: leases whose end would not help are not in the way.
    """
    waiting = wait(place, message, how_to_release(view, states), lease_ids(view, enough_for(states, short_mib)))
    return copy_with(waiting, holders=tuple(state.name for state in states))


def enough_for(states: Sequence[ConsumerState], short_mib: int) -> list[ConsumerState]:
    """The consumers without which a shortage ends.

    These are all that are large enough by themselves, since any of them may end first. Where none is, these are the
    largest that are together.
    """
    alone = [state for state in states if state.footprint_mib >= short_mib]
    if alone:
        return alone
    chosen: list[ConsumerState] = []
    for state in sorted(states, key=lambda one: -one.footprint_mib):
        if sum(one.footprint_mib for one in chosen) < short_mib:
            chosen.append(state)
    return chosen


def lease_ids(view: View, states: Sequence[ConsumerState]) -> tuple[str, ...]:
    """Ids of the leases on these consumers, without those whose consumer is given back at the moment."""
    return tuple(lease.id for state in states for lease in view.consumer_leases.get(state.name, ()))
