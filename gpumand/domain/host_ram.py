"""Host RAM for consumers that are parked: what there is of it, and how a consumer goes by that.

The second budget: what the kernel calls available, less a reserve, less what is promised to parkings under way.
"""

from __future__ import annotations

from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.view import ConsumerState, View


def room_mib(view: View, besides: str = "") -> int | None:
    """MiB of host RAM that parking may take now; None = nobody knows. May be negative.

    Who is being parked, or is going to be by a job that runs, counts whole, although some of it may show already.
    """
    if view.host_available_mib is None:
        return None
    going = {name for job in view.jobs.values() for name in job.parking} - {besides}
    promised_mib = sum(view.consumers[name].host_mib for name in going if name in view.consumers)
    return view.host_available_mib - view.settings.host_ram_reserve_mib - promised_mib


def would_park(state: ConsumerState) -> bool:
    """Whether the first of its methods parks it."""
    return state.spec.parks and state.methods[:1] == (EvictionMethod.HTTP,)


def method_now(view: View, state: ConsumerState) -> EvictionMethod | None:
    """How it is to be evicted for nobody's request; None where it cannot be, for want of host RAM or of any method."""
    if not would_park(state):
        return state.methods[0] if state.methods else None
    return EvictionMethod.HTTP if fits(state, room_mib(view, besides=state.name)) else stop_of(state)


def fits(state: ConsumerState, left_mib: int | None) -> bool:
    """Whether it may be parked. Unknown is not zero, and no promise either: who can be stopped is, then."""
    return stop_of(state) is None if left_mib is None else left_mib >= state.host_mib


def stop_of(state: ConsumerState) -> EvictionMethod | None:
    return EvictionMethod.UNIT_STOP if EvictionMethod.UNIT_STOP in state.methods else None
