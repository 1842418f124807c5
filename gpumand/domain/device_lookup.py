"""Finds devices by index, UUID or PCI address in their last samples, and keeps their sizes while the driver fails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gpumand.domain.device import Devices, Sample
from gpumand.domain.errors import DeviceUnavailable, NoSuchDevice


def device_index(samples: Mapping[int, Sample], wanted: str) -> int:
    """Resolve a device name to an index. Raises NoSuchDevice, or DeviceUnavailable when no device is known."""
    for index, sample in samples.items():
        if wanted in sample.names:
            return index
    if all(not sample.uuid for sample in samples.values()):
        raise DeviceUnavailable(f"device {wanted!r} cannot be found: {next(iter(samples.values())).error}")
    raise NoSuchDevice(f"no device has the index, UUID or PCI address {wanted!r}")


def resolve(samples: Mapping[int, Sample], wanted: str) -> Devices:
    """Resolve a comma-separated list of indices and UUIDs; "" = none. Raises like ``device_index``."""
    return tuple(sorted({device_index(samples, one.strip()) for one in wanted.split(",")})) if wanted else ()


def uuids(samples: Mapping[int, Sample], devices: Devices) -> tuple[str, ...]:
    """UUIDs of these devices, in the same order; () where one is unknown."""
    if len(devices) == 1:  # nearly always
        sample = samples.get(devices[0])
        return (sample.uuid,) if sample is not None and sample.uuid else ()
    found = [samples[device].uuid for device in devices if device in samples]
    return tuple(found) if len(found) == len(devices) and all(found) else ()


def with_totals(
    samples: Mapping[int, Sample], former: Mapping[int, Sample], total_mib: int | None
) -> dict[int, Sample]:
    """The samples with a total size even where the driver cannot report one.

    The size from an earlier reading of the same device stays valid while the driver fails.

    Args:
        samples: the new samples.
        former: the samples of the reading before.
        total_mib: the configured size, the fallback for device 0.
    """
    return {index: _with_total(sample, former.get(sample.index), total_mib) for index, sample in samples.items()}


def _with_total(sample: Sample, former: Sample | None, total_mib: int | None) -> Sample:
    if sample.total_mib is not None:
        return sample
    if former is not None and former.uuid and former.uuid == sample.uuid and former.total_mib is not None:
        return replace(sample, total_mib=former.total_mib)
    return replace(sample, total_mib=total_mib) if sample.index == 0 else sample
