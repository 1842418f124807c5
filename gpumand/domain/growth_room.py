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


def missing(view: View, state: ConsumerState, place: Devices) -> list[DeviceNeed]:
    """The devices of a loaded consumer on which it cannot grow to its footprint, with what is needed and free there.

    A part of the footprint up to the cushion counts as held: footprints are declared with that accuracy. The result is
    empty for a consumer with leases, the footprint of which is reserved, and where its use or the free memory is
    unknown: then it counts as holding its footprint.
    """
    needs = [] if state.leases else [_need(view, state, device) for device in place]
    return [need for need in needs if need is not None and need.short_mib]


def _need(view: View, state: ConsumerState, device: int) -> DeviceNeed | None:
    sample, accuracy_mib = view.devices[device], view.settings.cushion_mib
    held_mib = budget.held_mib(sample, state) if sample.is_measured else None
    if held_mib is None or state.footprint_mib - held_mib <= accuracy_mib:
        return None
    held_mib += budget.beyond_named_mib(sample, state, budget.unexplained_mib(view, device))
    rest_mib, free_mib = state.footprint_mib - held_mib, budget.free_mib(view, device, state.name)
    return DeviceNeed(device, rest_mib, free_mib) if rest_mib > accuracy_mib else None
