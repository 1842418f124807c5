"""Claims of footprints: what their growth is measured against, how long one lasts without a lease, and containers.

A unit that is only the ``docker run`` of a container holds nothing itself: the driver lists the container's processes,
which run in a scope of the container manager. Where the memory of a reservation appears in such scopes, readings of the
unit are taken for unknown, not for zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gpumand.domain import budget
from gpumand.domain.device import Devices, ProcessUse, Sample
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View

GROWTH_RESTED_SEC = 5.0
"""A reservation without a lease ends when the consumer's memory has not grown for this many seconds."""

START_RESERVATION_SEC = 15.0
"""The same for a consumer whose memory has not grown at all since its unit was started: weights are read from disk
first. It is less than the default wait of a request, which must not fail because of a reservation without a lease."""

CONTAINER_SCOPES = ("docker-", "libpod-", "cri-containerd-", "crio-", "nerdctl-", "lxc-", "lxc.", "machine-")
"""First parts of the names that container managers give to the scopes of their containers."""

NO_CLAIM: Mapping[str, Any] = {"claimed_at": None, "baseline_mib": {}}
"""The fields of a consumer's state that the end of its claim changes."""


def may_still_load(state: ConsumerState, now: float, idle_since: float) -> bool:
    """Whether a consumer without visible footprint may still load its model after its lease has ended.

    A lazy consumer goes on loading for a request although the client that sent it has died, and a unit counts as
    active before its model is loaded. No event marks the end of such a load, so its memory stays reserved until
    readings show it or its growth has rested.

    Args:
        state: the consumer.
        now: the time, on the monotonic clock.
        idle_since: when its last lease ended.
    """
    is_pending = (
        state.residency in (Residency.RESIDENT, Residency.UNKNOWN, Residency.PARKED) and not state.footprint_seen
    )
    is_starting = state.claimed_for_start and state.grew_at is None
    rest_sec = START_RESERVATION_SEC if is_starting else GROWTH_RESTED_SEC
    return is_pending and now < max(idle_since, state.grew_at or 0.0) + rest_sec


def changes_at_end(state: ConsumerState, now: float) -> Mapping[str, Any]:
    """The fields that change where a claim ends with the last lease at this time; empty where it goes on."""
    return NO_CLAIM if state.claimed and not may_still_load(state, now, idle_since=now) else {}


def baseline(samples: Mapping[int, Sample], devices: Devices) -> dict[str, Any]:
    """The fields of a consumer's state from which the growth of its reservation is measured."""
    there = [samples[device] for device in devices if device in samples]
    return {
        "baseline_mib": {sample.index: budget.unattributed_mib(sample) for sample in there},
        "container_baseline_mib": {sample.index: _container_mib(sample) for sample in there},
        "grew_at": None,
    }


def changes(samples: Mapping[int, Sample], state: ConsumerState, devices: Devices, now: float) -> dict[str, Any]:
    """Fields of a consumer's state that a claim changes; empty where the footprint is already reserved.

    Args:
        samples: the last sample of each device.
        state: the consumer.
        devices: where it is claimed.
        now: the time of the claim, on the monotonic clock.
    """
    if state.claimed:
        return {}
    footprint_seen = state.footprint_seen and state.residency is Residency.RESIDENT and state.devices in ((), devices)
    return {
        "devices": devices,
        "claimed_at": now,
        "footprint_seen": footprint_seen,
        **baseline(samples, devices),
    }


def is_in_container(state: ConsumerState, samples: Sequence[Sample]) -> bool:
    """Whether at least half of a loaded consumer's footprint is in containers, while its unit holds nothing.

    Args:
        state: the consumer.
        samples: the samples of its devices.
    """
    is_loaded = state.claimed or state.reports_loaded or not state.spec.lazy
    if not state.spec.unit or state.spec.container or not is_loaded or not samples:
        return False
    half_mib = state.footprint_mib // 2
    return all(sample.held_by(state.name) == 0 and _grown_mib(sample, state) >= half_mib for sample in samples)


def without_containers(samples: Mapping[int, Sample], states: Iterable[ConsumerState]) -> dict[int, Sample]:
    """The samples without the statement that consumers in containers would have been recognised in them."""
    names = frozenset(state.name for state in states if state.in_container)
    if not names:
        return dict(samples)
    return {index: replace(sample, attributable=sample.attributable - names) for index, sample in samples.items()}


def _grown_mib(sample: Sample, state: ConsumerState) -> int:
    """MiB that appeared in containers since the consumer was claimed, or that are there if it is not claimed."""
    baseline_mib = state.container_baseline_mib.get(sample.index, 0) if state.claimed else 0
    return max(0, _container_mib(sample) - baseline_mib)


def _container_mib(sample: Sample) -> int:
    return sum(process.used_mib or 0 for process in sample.processes if _runs_in_container(process))


def _runs_in_container(process: ProcessUse) -> bool:
    return not process.consumer and process.unit.endswith(".scope") and process.unit.startswith(CONTAINER_SCOPES)


def claimants(view: View, state: ConsumerState, place: Devices) -> list[ConsumerState]:
    """Other consumers whose footprint is reserved on any of the devices."""
    return [one for one in view.claimed if one.name != state.name and not set(one.devices).isdisjoint(place)]


def reserved_for(view: View, state: ConsumerState) -> str:
    """Why a claim without a lease must not end with an eviction."""
    if state.spec.reservation is not None:
        return "being reserved"
    is_target = any(job.consumer == state.name for job in view.jobs.values())
    return "about to be loaded" if is_target else "may still be loading for its last request"
