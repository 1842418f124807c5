"""What Prometheus is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gpumand.domain.consumer import Residency
from gpumand.domain.events import Event, EvictionOccurred, LoadFinished, RequestGranted
from gpumand.domain.status import ConsumerStatus, DeviceStatus, Stats, Status
from gpumand.http.limits import MAX_LABELLED
from gpumand.http.prometheus_format import Histogram, Samples, counter, gauge, histogram

OTHERS = "_other"
"""All consumers beyond the cap; no consumer is called so, their names begin with a letter or a digit."""

_MIB = 1024 * 1024


class Durations:
    """How long something took, by consumer; as many consumers as are met first, and the others together."""

    def __init__(self) -> None:
        self.histograms: dict[str, Histogram] = {}

    def note(self, consumer: str, duration_usec: int) -> None:
        """One more."""
        if consumer not in self.histograms and len(self.histograms) >= MAX_LABELLED:
            consumer = OTHERS
        self.histograms.setdefault(consumer, Histogram()).note(max(0, duration_usec) / 1e6)


class Metrics:
    """Gathers durations from events; everything else is in the status at the moment somebody asks."""

    def __init__(self) -> None:
        self._waits = Durations()
        self._loads = Durations()
        self._evictions = Durations()

    def note(self, event: Event) -> None:
        """Count what an event says."""
        if isinstance(event, RequestGranted):
            self._waits.note(event.consumer, event.waited_usec)
        elif isinstance(event, LoadFinished) and not event.error:
            self._loads.note(event.consumer, event.duration_usec)
        elif isinstance(event, EvictionOccurred):
            self._evictions.note(event.report.consumer, event.report.duration_usec)

    def text(self, status: Status) -> str:
        """The whole page."""
        lines = [*_daemon(status), *_devices(status.devices), *_consumers(status.consumers), *_counters(status.stats)]
        return "\n".join([*lines, *self._histograms(), ""])

    def _histograms(self) -> Iterator[str]:
        told = (
            ("gpumand_wait_seconds", "How long granted requests waited.", self._waits),
            ("gpumand_load_seconds", "How long loads took that succeeded.", self._loads),
            ("gpumand_eviction_seconds", "From an eviction's start to the memory seen free.", self._evictions),
        )
        for name, meaning, durations in told:
            yield from histogram(name, meaning, "consumer", durations.histograms)


def _daemon(status: Status) -> Iterator[str]:
    yield from gauge("gpumand_info", "The daemon's version.", [({"version": status.version}, 1)])
    yield from gauge("gpumand_degraded", "1 where it does less than it could.", [({}, int(bool(status.degraded)))])
    yield from gauge("gpumand_leases", "Leases that stand.", [({}, len(status.leases))])
    yield from gauge("gpumand_queue_length", "Requests that wait.", [({}, len(status.queue))])
    longest_usec = max((request.waited_usec for request in status.queue), default=0)
    meaning = "How long the request has waited that waits longest."
    yield from gauge("gpumand_queue_longest_wait_seconds", meaning, [({}, longest_usec / 1e6)])


def _devices(devices: tuple[DeviceStatus, ...]) -> Iterator[str]:
    yield from gauge("gpumand_device_info", "What a device is.", [(_described(one), 1) for one in devices])
    figures = (
        ("total", "VRAM of a device.", [one.total_mib for one in devices]),
        ("used", "VRAM in use, whoever uses it.", [one.used_mib for one in devices]),
        ("free", "VRAM that is free.", [one.free_mib for one in devices]),
        ("reserved", "VRAM promised to consumers that are loading.", [one.reserved_mib for one in devices]),
        ("foreign", "VRAM of processes that belong to no consumer.", [one.foreign_mib for one in devices]),
    )
    for name, meaning, values in figures:
        samples = [({"device": str(one.index)}, _bytes(mib)) for one, mib in zip(devices, values, strict=True)]
        yield from gauge(f"gpumand_device_{name}_bytes", meaning, samples)
    failing: Samples = [({"device": str(one.index)}, int(bool(one.error))) for one in devices]
    yield from gauge("gpumand_device_failing", "1 where a device cannot be read.", failing)


def _described(device: DeviceStatus) -> dict[str, str]:
    return {"device": str(device.index), "uuid": device.uuid, "name": device.name, "source": device.source}


def _consumers(consumers: tuple[ConsumerStatus, ...]) -> Iterator[str]:
    met = Counter(consumer.residency for consumer in consumers)
    by_residency: Samples = [({"residency": str(one)}, met[str(one)]) for one in Residency]
    yield from gauge("gpumand_consumers", "Consumers by residency.", by_residency)
    shown = consumers[:MAX_LABELLED]
    figures = (
        ("footprint_bytes", "VRAM that it needs while resident.", [_bytes(one.vram_resident_mib) for one in shown]),
        ("used_bytes", "VRAM that its processes hold.", [_bytes(one.used_mib) for one in shown]),
        ("resident", "1 while it is resident.", [int(one.residency == Residency.RESIDENT) for one in shown]),
        ("leases", "Leases on it.", [one.leases for one in shown]),
        ("pinned", "1 while it is pinned.", [int(one.pinned) for one in shown]),
        ("last_used_timestamp_seconds", "When it last worked; 0 = never.", [one.last_used_usec / 1e6 for one in shown]),
    )
    for name, meaning, values in figures:
        samples = [({"consumer": one.name}, value) for one, value in zip(shown, values, strict=True)]
        yield from gauge(f"gpumand_consumer_{name}", meaning, samples)


def _counters(stats: Stats) -> Iterator[str]:
    yield from counter("gpumand_evictions_total", "Evictions seen to succeed.", stats.evictions)
    yield from counter("gpumand_eviction_failures_total", "Evictions that freed too little.", stats.eviction_failures)
    yield from counter("gpumand_grants_total", "Requests that were granted.", stats.grants)
    yield from counter("gpumand_refusals_total", "Requests that were refused.", stats.refusals)
    yield from counter("gpumand_loads_total", "Loads that succeeded.", stats.loads)
    yield from counter("gpumand_load_failures_total", "Loads that failed.", stats.load_failures)


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * _MIB
