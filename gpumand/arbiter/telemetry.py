"""Keeps the last readings for graphs, and selects the current ones."""

from __future__ import annotations

from collections.abc import Iterable

from gpumand.arbiter.state import ArbiterState
from gpumand.domain.device import Sample
from gpumand.domain.driver_power import DriverState
from gpumand.domain.telemetry import NO_TELEMETRY, DevicePoint, Telemetry

ASLEEP = "asleep"


def record(state: ArbiterState) -> None:
    """Add the newest reading to the history. Called once for each sample interval."""
    samples = state.ledger.devices
    read = {index: sample for index, sample in samples.items() if index not in state.resting_devices}
    devices = {index: DevicePoint(sample.used_mib, sample.telemetry) for index, sample in read.items()}
    held = {
        name: _held_mib(name, samples.values())
        for name, consumer in state.ledger.consumers.items()
        if consumer.spec.reservation is None
    }
    taken_usec = max((sample.sampled_usec for sample in samples.values()), default=state.clock.realtime_usec())
    state.history.add(taken_usec, devices, held)


def _held_mib(name: str, samples: Iterable[Sample]) -> int | None:
    held = [sample.held_by(name) for sample in samples]
    known = [mib for mib in held if mib is not None]
    return sum(known) if known else None


def current_telemetry(state: ArbiterState, sample: Sample) -> Telemetry:
    """The telemetry of a device, while readings are taken. Older values say nothing about now."""
    is_read = state.driver_state is DriverState.OPEN and sample.index not in state.resting_devices
    return sample.telemetry if is_read else NO_TELEMETRY


def driver_state_of(state: ArbiterState) -> str:
    """The state of the driver in one word, for the status."""
    is_asleep = state.driver_state is DriverState.RESTING and state.driver_power.is_asleep
    return ASLEEP if is_asleep else str(state.driver_state)
