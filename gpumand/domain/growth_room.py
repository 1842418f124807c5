"""Whether a loaded consumer that nothing protects has room to grow to its footprint once it is leased again.

A server may hold less than its footprint at rest: it frees a part of its memory after its work, or has loaded only one
of its models. While it has no lease, others may be loaded into the rest. Its next client makes it grow again, so the
rest must be free before the lease, or the card runs out of memory.
"""

from __future__ import annotations

from gpumand.domain import budget
from gpumand.domain.device import Devices
from gpumand.domain.device_need import DeviceNeed
from gpumand.domain.view import ConsumerState, View


def needs(view: View, state: ConsumerState, place: Devices) -> list[DeviceNeed]:
    """What a loaded consumer needs on each of its devices to grow to its footprint; empty where it can.

    A part of the footprint up to the cushion counts as held: footprints are declared with that accuracy. The result is
    empty for a consumer with leases, the footprint of which is reserved. Where its use or the free memory is unknown,
    it counts as holding its footprint.
    """
    found = [] if state.leases else [_need(view, state, device) for device in place]
    return found if any(need.short_mib for need in found) else []


def _need(view: View, state: ConsumerState, device: int) -> DeviceNeed:
    sample, accuracy_mib, rest_mib = view.devices[device], view.settings.cushion_mib, 0
    held_mib = budget.held_mib(sample, state) if sample.is_measured else None
    if held_mib is not None and state.footprint_mib - held_mib > accuracy_mib:
        held_mib += budget.beyond_named_mib(sample, state, budget.unexplained_mib(view, device))
        rest_mib = state.footprint_mib - held_mib
    if rest_mib <= accuracy_mib:
        return DeviceNeed(device, 0, None)
    return DeviceNeed(device, rest_mib, budget.free_mib(view, device, state.name))
