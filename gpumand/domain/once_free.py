"""What is free for a request once every lease and load has ended: waiting helps only if that is enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gpumand.domain import budget, victims
from gpumand.domain.device_need import DeviceNeed
from gpumand.domain.view import ConsumerState, View


def tightest_once_free(
    view: View, state: ConsumerState, needs: Sequence[DeviceNeed], evictable: list[ConsumerState]
) -> tuple[DeviceNeed, float]:
    """The device with least to spare once every lease and load has ended, and how many MiB; below 0 it never fits.

    Args:
        view: everything at this moment.
        state: the requested consumer.
        needs: what is needed and free, by device.
        evictable: what can be evicted then. Consumers whose lease or load has ended can be, and must be among them.
    """
    spare_mib = [
        math.inf if need.free_mib is None else _free_once_ended_mib(view, state, need, evictable) - need.need_mib
        for need in needs
    ]
    return needs[spare_mib.index(min(spare_mib))], min(spare_mib)


def _free_once_ended_mib(view: View, state: ConsumerState, need: DeviceNeed, evictable: list[ConsumerState]) -> int:
    on_device = [one for one in evictable if view.is_on(one, need.device)]
    freed = victims.freeable_by_consumer(view, need.device, on_device, victims.freeing_more_when_stopped(on_device))
    free_mib = (need.free_mib or 0) + sum(freed.values())
    if not view.devices[need.device].is_measured:
        return free_mib  # declared footprints count whole already: nothing is reserved on top of them
    reserved = budget.reserved_by_consumer(view, need.device)
    # Reservations that end with an eviction are part of what it frees.
    reclaimed = {one.name for one in on_device if view.may_be_reclaimed(one)}
    return free_mib + sum(mib for name, mib in reserved.items() if name not in {state.name, *reclaimed})
