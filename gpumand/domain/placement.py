"""Which devices a consumer may be on. A *place* is the set of devices that it takes together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

from gpumand.domain.device import Devices, default_devices
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View

LOCATED = frozenset({Residency.RESIDENT, Residency.PARKED, Residency.LOADING, Residency.UNLOADING})
"""Residencies in which a consumer's devices are the ones that it is on."""

MAX_PLACES = 128
"""Up to this many places of a consumer on several devices are all tried: four of eight devices are 70."""


def current_devices(view: View, state: ConsumerState, requested: Devices) -> Devices:
    """The devices that the consumer is on, if they are present and contain the requested ones; else ().

    A loaded consumer stays where it is, even if its configuration names other devices now.
    """
    is_present = state.residency in LOCATED and state.devices and view.devices.keys() >= set(state.devices)
    return state.devices if is_present and set(state.devices).issuperset(requested) else ()


def is_on_other_devices(view: View, state: ConsumerState, place: Devices) -> bool:
    """Whether its process is on other devices than ``place``: its model is there, or would be woken there."""
    has_process = state.residency in (Residency.RESIDENT, Residency.PARKED)
    return has_process and state.devices not in ((), place) and view.devices.keys() >= set(state.devices)


def allowed_devices(view: View, state: ConsumerState, requested: Devices) -> Devices:
    """The devices that the consumer may take; () where the request cannot be satisfied.

    These are the requested devices and, where it needs more of them, the configured ones. If none is configured, they
    are the default ones, see ``default_devices``.
    """
    if not view.devices.keys() >= set(requested):
        return ()
    count = required_count(view, state)
    if len(requested) >= count:
        return requested if len(requested) == count else ()
    found = set(default_devices(view.devices.values()))
    if state.spec.devices and not _is_placeholder(view):
        found = {one.index for one in view.devices.values() if one.names & set(state.spec.devices)}
    return tuple(sorted(found.union(requested)))


def required_count(view: View, state: ConsumerState) -> int:
    """How many devices the consumer takes; a placeholder device stands for as many as it needs."""
    return min(state.spec.device_count, len(view.devices)) if _is_placeholder(view) else state.spec.device_count


def can_enumerate(devices: Devices, requested: Devices, count: int) -> bool:
    """Whether there are so few places of ``count`` of these devices that all can be tried."""
    return math.comb(max(0, len(devices) - len(requested)), count - len(requested)) <= MAX_PLACES


def all_places(devices: Devices, requested: Devices, count: int) -> list[Devices]:
    """Every place of ``count`` of these devices that contains the requested ones."""
    others = [device for device in devices if device not in requested]
    return [tuple(sorted((*requested, *more))) for more in combinations(others, count - len(requested))]


def neighbouring_places(ranked: Sequence[int], requested: Devices, count: int) -> list[Devices]:
    """Places of ``count`` devices that are next to each other in a ranking, where there are too many to try all.

    Args:
        ranked: devices, the most suitable first.
        requested: devices that every place must contain.
        count: how many devices a place has.
    """
    others, more = [device for device in ranked if device not in requested], count - len(requested)
    return [tuple(sorted((*requested, *others[at : at + more]))) for at in range(len(others) - more + 1)]


def _is_placeholder(view: View) -> bool:
    """Whether the source knows no device, so that a placeholder stands for all that may exist."""
    return all(not sample.uuid for sample in view.devices.values())
