"""Which devices a consumer may be on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from gpumand.domain.consumer import Residency
from gpumand.domain.device import Devices
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import on_devices

SOMEWHERE = frozenset({Residency.RESIDENT, Residency.PARKED, Residency.LOADING, Residency.UNLOADING})

MAX_PLACES = 128
"""So many ways to put a consumer on several devices are all looked at: four of eight are 70."""


def stays_on(view: View, state: ConsumerState, wanted: Devices) -> Devices:
    """Where it is, if it is anywhere and that will do; else ().

    A consumer that is there already stays there, whatever its configuration says by now: it is what was asked for.
    """
    is_there = state.residency in SOMEWHERE and state.devices and view.devices.keys() >= set(state.devices)
    return state.devices if is_there and set(state.devices).issuperset(wanted) else ()


def is_elsewhere(view: View, state: ConsumerState, place: Devices) -> bool:
    """Whether its process is on other devices than these: there its model is, or would be woken."""
    has_process = state.residency in (Residency.RESIDENT, Residency.PARKED)
    return has_process and state.devices not in ((), place) and view.devices.keys() >= set(state.devices)


def allowed(view: View, state: ConsumerState, wanted: Devices) -> Devices:
    """Devices that may be among its own: those asked for and, where it needs more, those configured, else all."""
    if not view.devices.keys() >= set(wanted):
        return ()
    count = count_on(view, state)
    if len(wanted) >= count:
        return wanted if len(wanted) == count else ()
    found = set(view.devices)
    if state.spec.devices and not _is_blind(view):
        found = {one.index for one in view.devices.values() if {str(one.index), one.uuid} & set(state.spec.devices)}
    return tuple(sorted(found.union(wanted)))


def count_on(view: View, state: ConsumerState) -> int:
    """How many devices it takes; a placeholder stands for all that there may be."""
    return min(state.spec.device_count, len(view.devices)) if _is_blind(view) else state.spec.device_count


def are_few(devices: Devices, wanted: Devices, count: int) -> bool:
    """Whether every way to take so many of these devices can be looked at."""
    return math.comb(max(0, len(devices) - len(wanted)), count - len(wanted)) <= MAX_PLACES


def every(devices: Devices, wanted: Devices, count: int) -> list[Devices]:
    """Every way to take so many of these devices, those wanted always among them."""
    others = [one for one in devices if one not in wanted]
    return [tuple(sorted((*wanted, *more))) for more in combinations(others, count - len(wanted))]


def neighbours(ranked: Sequence[int], wanted: Devices, count: int) -> list[Devices]:
    """Some ways to take so many: of devices in the order of how well they suit, those next to each other."""
    others, more = [one for one in ranked if one not in wanted], count - len(wanted)
    return [tuple(sorted((*wanted, *others[at : at + more]))) for at in range(len(others) - more + 1)]


def why_none(view: View, state: ConsumerState, wanted: Devices) -> str:
    """Why there is no device to be tried, in one line."""
    errors = "; ".join(sorted({one.error for one in view.devices.values() if one.error}))
    return _why_none(view, state, wanted) + (f" ({errors})" if errors else "")


def _why_none(view: View, state: ConsumerState, wanted: Devices) -> str:
    missing = tuple(one for one in wanted if one not in view.devices)
    if missing:
        return f"{on_devices(missing)} {'is' if len(missing) == 1 else 'are'} not there"
    if len(wanted) > state.spec.device_count:
        return f"{state.name} needs {state.spec.device_count} of {on_devices(wanted)}"
    named = state.spec.devices
    found = [one for one in named if any(one in (str(dev.index), dev.uuid) for dev in view.devices.values())]
    if named and len(found) < len(named):
        gone = [one for one in named if one not in found]
        words = f"device{'s' if len(gone) > 1 else ''} {', '.join(gone)}, configured for {state.name},"
        return f"{words} {'are' if len(gone) > 1 else 'is'} not there"
    count = state.spec.device_count
    return f"{state.name} needs {count} devices at once, and there are {len(view.devices)}"


def _is_blind(view: View) -> bool:
    """No source knows any device: the placeholder stands for whichever there may be."""
    return all(not one.uuid for one in view.devices.values())
