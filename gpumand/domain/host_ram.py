"""Host RAM for parked consumers: how much of it is left, and how a consumer is evicted because of that.

Host RAM is the second budget: what the kernel reports as available, less a reserve, less what is reserved for
consumers that are being parked.
"""

from __future__ import annotations

from gpumand.domain.consumer import STOPPING, EvictionMethod
from gpumand.domain.device import Pool
from gpumand.domain.view import ConsumerState, View

NOTHING_TO_PARK = "its GPU uses host RAM, where parking frees nothing, and it has no unit to stop"


def room_mib(view: View, excluding: str = "") -> int | None:
    """MiB of host RAM that parking may take now; None = unknown. May be negative.

    A consumer that is being parked, or that a running job is going to park, counts whole, although a part of it may
    show in the kernel's number already.

    Args:
        view: everything at this moment.
        excluding: a consumer whose own parking does not count; "" = none.
    """
    if view.host_available_mib is None:
        return None
    being_parked = {name for job in view.jobs.values() for name in job.parking} - {excluding}
    reserved_mib = sum(view.consumers[name].host_mib for name in being_parked if name in view.consumers)
    return view.host_available_mib - view.settings.host_ram_reserve_mib - reserved_mib


def would_park(state: ConsumerState) -> bool:
    """Whether the first usable eviction method parks the consumer."""
    return state.spec.parks and state.usable_methods[:1] == (EvictionMethod.HTTP,)


def shares_host_ram(view: View, state: ConsumerState) -> bool:
    """Whether all of its devices use host RAM as their memory: moving weights to host RAM frees nothing there."""
    pools = {view.devices[device].pool for device in state.devices if device in view.devices}
    return bool(pools) and Pool.VRAM not in pools


def cannot_be_freed(view: View, state: ConsumerState) -> bool:
    """Whether its only method would park it, which frees nothing where the GPU uses host RAM."""
    return would_park(state) and shares_host_ram(view, state) and stop_method(state) is None


def eviction_method_now(view: View, state: ConsumerState) -> EvictionMethod | None:
    """The first method for an eviction that serves no request, such as a manual one or one for idleness.

    None where no method is left, or the only one would park the consumer and host RAM has no room for it, or its GPU
    uses host RAM.
    """
    if not would_park(state):
        return state.usable_methods[0] if state.usable_methods else None
    can = can_park(view, state, room_mib(view, excluding=state.name))
    return EvictionMethod.HTTP if can else stop_method(state)


def can_park(view: View, state: ConsumerState, left_mib: int | None) -> bool:
    """Whether host RAM has room to park the consumer, and parking it frees memory of its devices.

    Where host RAM is unknown, a consumer that can be stopped is stopped; one that cannot is parked all the same.
    """
    if shares_host_ram(view, state):
        return False
    return stop_method(state) is None if left_mib is None else left_mib >= state.host_mib


def stop_method(state: ConsumerState) -> EvictionMethod | None:
    """The first usable method that ends its processes; None where there is none."""
    return next((method for method in state.usable_methods if method in STOPPING), None)
