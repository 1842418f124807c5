"""Collects the metrics and writes the /metrics page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gpumand.domain.events import Event, EvictionOccurred, LoadFinished, RequestGranted
from gpumand.domain.residency_states import Residency
from gpumand.domain.status import ConsumerStatus, DeviceStatus, Stats, Status
from gpumand.http.limits import MAX_LABELLED_CONSUMERS
from gpumand.http.prometheus_format import Histogram, Samples, counter, gauge, histogram

OTHERS = "_other"
"""Label of all consumers above the limit. Names of consumers start with a letter or digit, so none is equal to it."""

RESERVATIONS = "_reservation"
"""Label of all leases without a consumer."""

MEASURED = frozenset({RequestGranted, LoadFinished, EvictionOccurred})
"""The types of events that report a duration."""

DRIVER_STATES = ("open", "resting", "asleep", "released")

_MIB = 1024 * 1024


class Durations:
    """Histograms of durations by consumer; consumers above ``MAX_LABELLED_CONSUMERS`` share one histogram."""

    def __init__(self) -> None:
        self.histograms: dict[str, Histogram] = {}

    def record(self, consumer: str, duration_usec: int) -> None:
        """Add a duration."""
        if consumer not in self.histograms and len(self.histograms) >= MAX_LABELLED_CONSUMERS:
            consumer = OTHERS
        self.histograms.setdefault(consumer, Histogram()).record(max(0, duration_usec) / 1e6)


class Metrics:
    """Collects durations from events; all other metrics are read from the status when the page is requested."""

    def __init__(self) -> None:
        self._waits = Durations()
        self._loads = Durations()
        self._evictions = Durations()

    def record(self, event: Event) -> None:
        """Add the duration that an event reports, if any."""
        if type(event) not in MEASURED:
            return
        if isinstance(event, RequestGranted):
            self._waits.record(event.consumer or RESERVATIONS, event.waited_usec)
        elif isinstance(event, LoadFinished) and not event.error:
            self._loads.record(event.consumer, event.duration_usec)
        elif isinstance(event, EvictionOccurred):
            self._evictions.record(event.report.consumer, event.report.duration_usec)

    def text(self, status: Status) -> str:
        """Return the page for a status."""
        lines = [*_daemon(status), *_devices(status.devices), *_consumers(status.consumers), *_counters(status.stats)]
        return "\n".join([*lines, *self._histograms(), ""])

    def _histograms(self) -> Iterator[str]:
        families = (
            ("gpumand_wait_seconds", "Waiting time of granted requests.", self._waits),
            ("gpumand_load_seconds", "Duration of successful loads.", self._loads),
            (
                "gpumand_eviction_seconds",
                "Time from the start of an eviction until the memory is free.",
                self._evictions,
            ),
        )
        for name, meaning, durations in families:
            yield from histogram(name, meaning, "consumer", durations.histograms)


def _daemon(status: Status) -> Iterator[str]:
    yield from gauge("gpumand_info", "Version of the daemon.", [({"version": status.version}, 1)])
    yield from gauge("gpumand_degraded", "1 while the daemon is degraded.", [({}, int(bool(status.degraded)))])
    by_state: Samples = [({"state": state}, int(status.driver_state == state)) for state in DRIVER_STATES]
    yield from gauge("gpumand_driver_state", "1 for the state that the GPU driver is in.", by_state)
    yield from gauge("gpumand_leases", "Active leases.", [({}, len(status.leases))])
    reservations = [one for one in status.leases if one.reservation is not None]
    yield from gauge("gpumand_reservations", "Active leases without a consumer.", [({}, len(reservations))])
    held_mib = sum(status.reserved_used_mib.values())
    meaning = "VRAM held by the programs of leases without a consumer."
    yield from gauge("gpumand_reservations_used_bytes", meaning, [({}, _bytes(held_mib))])
    yield from gauge("gpumand_queue_length", "Waiting requests.", [({}, len(status.queue))])
    longest_usec = max((request.waited_usec for request in status.queue), default=0)
    meaning = "Waiting time of the request that has waited longest."
    yield from gauge("gpumand_queue_longest_wait_seconds", meaning, [({}, longest_usec / 1e6)])


def _devices(devices: tuple[DeviceStatus, ...]) -> Iterator[str]:
    yield from gauge(
        "gpumand_device_info", "UUID, name and source of a device.", [(_device_labels(one), 1) for one in devices]
    )
    families = (
        ("total", "Total VRAM of a device.", [one.total_mib for one in devices]),
        ("used", "VRAM in use by any process.", [one.used_mib for one in devices]),
        ("free", "Free VRAM.", [one.free_mib for one in devices]),
        (
            "reserved",
            "VRAM reserved for consumers that are loading, and for leases without a consumer.",
            [one.reserved_mib for one in devices],
        ),
        ("foreign", "VRAM of processes that belong to no consumer.", [one.foreign_mib for one in devices]),
        ("unnamed", "VRAM in use beyond all processes that the driver names.", [one.unnamed_mib for one in devices]),
    )
    for name, meaning, values in families:
        samples = [({"device": str(one.index)}, _bytes(mib)) for one, mib in zip(devices, values, strict=True)]
        yield from gauge(f"gpumand_device_{name}_bytes", meaning, samples)
    yield from _telemetry(devices)
    failing: Samples = [({"device": str(one.index)}, int(bool(one.error))) for one in devices]
    yield from gauge("gpumand_device_failing", "1 while the device cannot be read.", failing)


def _telemetry(devices: tuple[DeviceStatus, ...]) -> Iterator[str]:
    """Utilisation, temperature and power in base units; a value that is unknown has no sample."""
    telemetry = [one.telemetry for one in devices]
    families = (
        (
            "utilization_ratio",
            "Utilisation of a device, 0 to 1.",
            [_ratio(one.utilization_percent) for one in telemetry],
        ),
        ("temperature_celsius", "Temperature of a device.", [one.temperature_celsius for one in telemetry]),
        (
            "temperature_limit_celsius",
            "Temperature at which the driver slows a device down.",
            [one.temperature_limit_celsius for one in telemetry],
        ),
        ("power_watts", "Power draw of a device.", [one.power_watts for one in telemetry]),
        ("power_limit_watts", "Power limit of a device.", [one.power_limit_watts for one in telemetry]),
        (
            "sampled_timestamp_seconds",
            "Time of the last reading of a device.",
            [one.sampled_usec / 1e6 if one.sampled_usec else None for one in devices],
        ),
    )
    for name, meaning, values in families:
        samples = [({"device": str(one.index)}, value) for one, value in zip(devices, values, strict=True)]
        yield from gauge(f"gpumand_device_{name}", meaning, samples)


def _ratio(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


def _device_labels(device: DeviceStatus) -> dict[str, str]:
    return {"device": str(device.index), "uuid": device.uuid, "name": device.name, "source": device.source}


def _consumers(consumers: tuple[ConsumerStatus, ...]) -> Iterator[str]:
    counts = Counter(consumer.residency for consumer in consumers)
    by_residency: Samples = [({"residency": str(one)}, counts[str(one)]) for one in Residency]
    yield from gauge("gpumand_consumers", "Consumers by residency.", by_residency)
    shown = consumers[:MAX_LABELLED_CONSUMERS]
    families = (
        (
            "footprint_bytes",
            "VRAM that the consumer needs while resident.",
            [_bytes(one.vram_resident_mib) for one in shown],
        ),
        ("used_bytes", "VRAM held by the consumer's processes.", [_bytes(one.used_mib) for one in shown]),
        ("resident", "1 while the consumer is resident.", [int(one.residency == Residency.RESIDENT) for one in shown]),
        ("leases", "Active leases on the consumer.", [one.leases for one in shown]),
        ("pinned", "1 while the consumer is pinned.", [int(one.pinned) for one in shown]),
        ("last_used_timestamp_seconds", "Time of last use; 0 = never.", [one.last_used_usec / 1e6 for one in shown]),
    )
    for name, meaning, values in families:
        samples = [({"consumer": one.name}, value) for one, value in zip(shown, values, strict=True)]
        yield from gauge(f"gpumand_consumer_{name}", meaning, samples)


def _counters(stats: Stats) -> Iterator[str]:
    yield from counter("gpumand_evictions_total", "Successful evictions.", stats.evictions)
    yield from counter(
        "gpumand_eviction_failures_total", "Evictions that freed too little memory.", stats.eviction_failures
    )
    yield from counter("gpumand_grants_total", "Granted requests.", stats.grants)
    yield from counter("gpumand_refusals_total", "Refused requests.", stats.refusals)
    yield from counter("gpumand_loads_total", "Successful loads.", stats.loads)
    yield from counter("gpumand_load_failures_total", "Failed loads.", stats.load_failures)


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * _MIB
