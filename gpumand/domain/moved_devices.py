"""Devices whose index has changed: what consumers and leases on them are recorded with.

A device is identified by its UUID; its index changes, for example, when a device with a lower index is removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gpumand.domain.device import Devices, Sample, format_devices
from gpumand.domain.lease import Lease
from gpumand.domain.view import ConsumerState


def moves(samples: Mapping[int, Sample], index_of: Mapping[str, int]) -> dict[int, int]:
    """The new index of each device that has moved.

    Args:
        samples: the last samples, by the former indices.
        index_of: the present index of each UUID.
    """
    return {
        index: index_of[sample.uuid] for index, sample in samples.items() if index_of.get(sample.uuid, index) != index
    }


def consumer_changes(state: ConsumerState, moved: Mapping[int, int]) -> dict[str, Any]:
    """Fields of a consumer's state that change with the indices of its devices; empty where none has moved."""
    if moved.keys().isdisjoint(state.devices):
        return {}
    return {
        "devices": tuple(sorted(moved.get(device, device) for device in state.devices)),
        "baseline_mib": {moved.get(device, device): mib for device, mib in state.baseline_mib.items()},
    }


def devices_of(lease: Lease, index_of: Mapping[str, int]) -> Devices:
    """The present devices of a lease that names them by UUID, as after a restart; () where not all are known."""
    is_known = len(lease.uuids) > 0 and index_of.keys() >= set(lease.uuids)
    return tuple(sorted(index_of[uuid] for uuid in lease.uuids)) if is_known else ()


def with_devices(lease: Lease, devices: Devices, index_of: Mapping[str, int]) -> Lease:
    """The lease with its devices as they are called now; the same object where nothing changes."""
    text = format_devices(devices) or lease.device
    if text == lease.device:
        return lease
    return replace(lease, device=text, uuids=tuple(sorted(lease.uuids, key=lambda uuid: index_of.get(uuid, -1))))
