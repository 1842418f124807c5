"""Whether anything needs the cards whose driver keeps them awake, where the host has other devices beside them.

A laptop with an integrated GPU and an NVIDIA card has both. A consumer that can only use the integrated GPU is no
reason to keep the card awake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gpumand.domain.device import Devices, Sample, parse_devices
from gpumand.domain.lease import Lease
from gpumand.domain.placement import allowed_devices
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View

KEPT_OPEN = frozenset({"nvml"})
"""Sources that keep a driver open between readings, so that its cards stay awake."""

WITHOUT_VRAM = frozenset({Residency.UNLOADED, Residency.FAILED, Residency.UNKNOWN})
"""Residencies of consumers that keep no card awake. A card with a consumer of unknown residency may sleep: it then
holds no memory of it."""


def kept_awake(samples: Mapping[int, Sample]) -> Devices:
    """The devices of such a driver, if all of them could be read and there are others beside them; else ()."""
    kept = [one for one in samples.values() if one.source in KEPT_OPEN]
    others = [one for one in samples.values() if one.source not in KEPT_OPEN and one.uuid and not one.stands_in]
    is_readable = all(one.is_measured and not one.error for one in kept)
    return tuple(one.index for one in kept) if others and is_readable else ()


def may_use(view: View, name: str, requested: Devices, devices: Devices) -> bool:
    """Whether a consumer may be loaded on any of these devices; one of which that is unknown may."""
    state = view.consumers.get(name)
    if state is None:
        return True
    possible = allowed_devices(view, state, requested)
    return not possible or not set(devices).isdisjoint(possible) or _is_on(view, state, devices)


def is_needed(view: View, leases: Iterable[Lease], requests: Iterable[tuple[str, Devices]], devices: Devices) -> bool:
    """Whether any of these devices is needed now.

    Args:
        view: everything at this moment.
        leases: the active leases.
        requests: the waiting requests, each with its consumer and the devices that it names.
        devices: the devices in question.
    """
    wanted = set(devices)
    if wanted & view.jobs.keys() or any(not wanted.isdisjoint(_leased(lease, devices)) for lease in leases):
        return True
    loaded = (state for state in view.consumers.values() if state.residency not in WITHOUT_VRAM)
    if any(_is_on(view, state, devices) or not view.devices_of(state) for state in loaded):
        return True
    return any(may_use(view, name, requested, devices) for name, requested in requests)


def _leased(lease: Lease, devices: Devices) -> Devices:
    """The devices of a lease; where they are unknown, these ones may be among them."""
    return parse_devices(lease.device) or devices


def _is_on(view: View, state: ConsumerState, devices: Devices) -> bool:
    return any(view.is_on(state, device) for device in devices)
