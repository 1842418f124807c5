"""What stays known of a device when a reading of it fails: its last values, that it exists, and that it is lost.

A driver fails for a moment while a model is loaded, after a suspend, or permanently. None of that frees memory, so the
last successful sample of each device goes with every failed one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from gpumand.domain.device import SOURCE_STRIDE, Reading, Sample, error_word, placeholder_sample

LOST_WORDS = frozenset({"no-devices", "driver-lost", "gone"})
"""Errors of a source that knew devices before: no driver reaches them any more."""

MIG_PREFIX = "MIG-"

GONE = "gone: the driver does not list the device any more"


def complete(reading: Reading, former: Mapping[int, Sample], total_mib: int | None) -> dict[int, Sample]:
    """The samples of a reading, by index, with what is known from the samples before; a placeholder where none is.

    Args:
        reading: the new reading.
        former: the samples before it; empty after a change of the source, since nothing is known of its devices.
        total_mib: configured size of device 0, for the placeholder.
    """
    by_uuid = {sample.uuid: sample for sample in former.values() if sample.uuid}
    found = [_with_former(sample, by_uuid.get(sample.uuid, former.get(sample.index))) for sample in reading.devices]
    missing = [sample for uuid, sample in by_uuid.items() if uuid not in {one.uuid for one in found}]
    taken = {sample.index for sample in found}
    for sample in missing:
        kept = _missing(sample, reading, by_uuid)
        if kept is not None:
            index = kept.index if kept.index not in taken else _next_index(kept.index, taken)
            found.append(replace(kept, index=index))
            taken.add(index)
    return {sample.index: sample for sample in found} or {0: placeholder_sample(total_mib, reading.error)}


def _next_index(index: int, taken: Collection[int]) -> int:
    """The first index above all that are taken by devices of the same source."""
    return max(one for one in taken if one // SOURCE_STRIDE == index // SOURCE_STRIDE) + 1


def _with_former(sample: Sample, former: Sample | None) -> Sample:
    """A failed sample with the last values of its device. "Lost" lasts until a reading succeeds."""
    is_other = former is not None and sample.uuid and former.uuid and sample.uuid != former.uuid
    if former is None or is_other or not _has_failed(sample):
        return sample
    last = former if former.is_measured else former.last
    was_known = bool(former.uuid) and former.source != "none"
    is_lost = former.lost or (was_known and error_word(sample.error) in LOST_WORDS)
    error = former.error if former.lost and not sample.lost else sample.error
    total_mib = sample.total_mib if last is None else last.total_mib
    sample = replace(sample, aliases=sample.aliases or former.aliases, pool=former.pool, integrated=former.integrated)
    return replace(sample, last=last, lost=sample.lost or is_lost, error=error, total_mib=total_mib)


def _has_failed(sample: Sample) -> bool:
    return bool(sample.error) and not sample.is_measured


def _missing(sample: Sample, reading: Reading, known: Collection[str]) -> Sample | None:
    """A device that a reading does not list: unreadable with a failing source, else lost; None = it may be forgotten.

    MIG instances are created and destroyed while the driver runs, and new ones replace the GPU that they are part of.
    Instances that were known before say nothing about a GPU that vanishes beside them.
    """
    uuids = {one.uuid for one in reading.devices}
    if sample.source not in {one.source for one in reading.devices} and reading.devices:
        return None
    if sample.uuid.startswith(MIG_PREFIX) or any(uuid.startswith(MIG_PREFIX) for uuid in uuids.difference(known)):
        return None
    if sample.source == "none" or not (reading.devices or reading.error):
        return None
    blank = replace(sample, total_mib=None, used_mib=None, free_mib=None, processes=(), attributed=False)
    blank = replace(blank, attributable=frozenset(), error=GONE if reading.devices else reading.error)
    blank = replace(blank, taken_at=max((one.taken_at for one in reading.devices), default=sample.taken_at))
    return _with_former(replace(blank, lost=bool(reading.devices)), sample)
