"""Backfill under strict order: serving a later request early only where it cannot delay any earlier one."""

from __future__ import annotations

from gpumand.domain import budget, victims
from gpumand.domain.device import Devices
from gpumand.domain.view import ConsumerState, View


def may_backfill(view: View, name: str, place: Devices, ahead: list[str]) -> bool:
    """Whether a resident consumer may be leased although earlier requests still wait for the same devices.

    That is only so where it cannot make any of them wait longer: lease slots are unlimited, none of them could evict it
    anyway, and its footprint leaves room for theirs beside everything that is reserved. Otherwise order is strict.

    Args:
        view: everything at this moment.
        name: the resident consumer.
        place: the devices that it is on.
        ahead: the consumers that earlier requests wait for.
    """
    state = view.consumers[name]
    if view.settings.concurrent_leases:
        return False
    wanted_mib = sum(view.consumers[other].footprint_mib for other in set(ahead) if other != name)
    is_exempt = all(other == name or victims.permanent_exemption(view, state, view.consumers[other]) for other in ahead)
    return is_exempt and all(_has_room_for(view, device, state, wanted_mib) for device in place)


def _has_room_for(view: View, device: int, state: ConsumerState, wanted_mib: int) -> bool:
    total_mib = budget.total_mib(view, device)
    if total_mib is None:
        return False
    return budget.committed_mib(view, device, excluding=state.name) + state.footprint_mib + wanted_mib <= total_mib
