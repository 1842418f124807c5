"""Who may pass requests that wait, where no measure of what that costs them is asked for."""

from __future__ import annotations

from gpumand.domain import budget, victims
from gpumand.domain.device import Devices
from gpumand.domain.view import ConsumerState, View


def may_pass(view: View, name: str, place: Devices, ahead: list[str]) -> bool:
    """Whether a resident consumer may be leased although requests ahead of it still wait for the same devices.

    Only where it cannot make any of them wait longer: slots are unlimited, those ahead could never evict it anyway,
    and its footprint leaves room for theirs beside all that is promised. Everything else is first come, first served.
    """
    state = view.consumers[name]
    if view.settings.concurrent_leases:
        return False
    wanted_mib = sum(view.consumers[other].footprint_mib for other in set(ahead) if other != name)
    return all(other == name or victims.why_never(view, state, view.consumers[other]) for other in ahead) and all(
        _has_room_for(view, device, state, wanted_mib) for device in place
    )


def _has_room_for(view: View, device: int, state: ConsumerState, wanted_mib: int) -> bool:
    total_mib = budget.total_mib(view, device)
    if total_mib is None:
        return False
    return budget.committed_mib(view, device, besides=state.name) + state.footprint_mib + wanted_mib <= total_mib
