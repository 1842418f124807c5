"""Snapshots of devices, consumers, leases and the queue, as ``GetStatus`` returns them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gpumand.domain.device import ProcessUse
from gpumand.domain.footprint import Footprint
from gpumand.domain.learning import LearnedTimes
from gpumand.domain.lease import Lease, Owner
from gpumand.domain.telemetry import NO_TELEMETRY, Series, Telemetry

MAX_FOREIGN = 16
"""Maximum number of foreign processes per device in a Status; a desktop has more, which hold little memory each."""


MAX_PROCESSES = 64
"""Maximum number of processes of consumers and reservations per device in a Status."""


@dataclass(frozen=True)  # without slots, for copy_with
class Stats:
    """Counters since the daemon started; ``evictions`` counts successful evictions.

    The ``…_usec`` values are sums, so that a client can calculate means.
    """

    evictions: int = 0
    eviction_failures: int = 0
    grants: int = 0
    refusals: int = 0
    loads: int = 0
    load_failures: int = 0
    wait_usec: int = 0
    load_usec: int = 0
    unload_usec: int = 0


@dataclass(frozen=True, slots=True)
class HeldProcess:
    """A process that holds memory of a device for consumers or for a reservation.

    Attributes:
        process: the process, or a unit as a whole.
        consumers: the consumers that it belongs to: several where they share a unit, none for a reservation.
        lease: id of the reservation's lease, "" for a consumer's process.
    """

    process: ProcessUse
    consumers: tuple[str, ...] = ()
    lease: str = ""


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A device in a Status; None = unknown.

    Attributes:
        foreign: processes that hold memory but belong to no consumer, the largest first, at most ``MAX_FOREIGN``.
        processes: processes of consumers and of reservations that hold memory, the largest first, at most
            ``MAX_PROCESSES``.
        aliases: further names of the device in ``device =``.
        pool: what its memory is: "vram", "unified" or "host".
        integrated: a GPU in the processor, which consumers use only if they name it or if there is no other.
        attribution: how memory is attributed to units, such as "nvml" or "kfd"; "" = not at all.
        attribution_gap: why it is unknown which unit holds how much, in one line; "" if there is no such reason.
        asleep: the card is suspended, so that its reading does not count as evidence.
        unnamed_mib: MiB in use beyond all processes that the driver names.
        unchecked: no source of readings exists, so that loads on it are not checked against real memory.
        telemetry: utilisation, temperature and power, as far as they are known.
        history: series of the last readings, by names with their units; see ``TelemetryHistory``.
    """

    index: int
    uuid: str
    name: str
    source: str
    total_mib: int | None
    used_mib: int | None
    free_mib: int | None
    reserved_mib: int | None
    foreign_mib: int | None
    sampled_usec: int
    error: str
    foreign: tuple[ProcessUse, ...] = ()
    aliases: tuple[str, ...] = ()
    pool: str = "vram"
    integrated: bool = False
    attribution: str = ""
    attribution_gap: str = ""
    asleep: bool = False
    telemetry: Telemetry = NO_TELEMETRY
    history: Mapping[str, Series] = field(default_factory=dict)
    unnamed_mib: int | None = None
    unchecked: bool = False
    processes: tuple[HeldProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A consumer in a Status.

    Attributes:
        vram_resident_mib: None when unknown.
        used_mib: None when unknown.
        doing: the current operation, for a progress line: "" or for example "loading for 12 s", "unloading by http".
        since_usec: CLOCK_REALTIME microseconds of the last change of residency; 0 = unknown.
        memory: measured memory use.
        times: learned durations.
        vram_auto: ``vram_resident_mib`` is measured, or a guess until it is measured; it is not declared.
        endpoint: its URL, "" where none is configured.
        preset: the preset of its configuration, "" without one.
        evict: its eviction methods, in the order in which they are tried.
        lazy: only requests to the consumer itself load its model into VRAM.
        busy: whether it reports that it is busy; None = unknown.
        shared_with: other consumers in its unit or container.
        shared_mib: MiB that these hold for all of its consumers, where there are several.
        unit_state: state of its unit or container, such as "active"; "" where it has none or none was reported.
        used_by_device: MiB held on each device where the driver shows its processes.
        used_mib_history: MiB held at the last readings; () where it held none.
        container: the name of its container in the configuration; "" without one.
        fleet: "unique" if only one host of a fleet may have it loaded; "" otherwise.
        retry_usec: CLOCK_REALTIME microseconds before which no load is tried, after failed ones; 0 = any time.
    """

    name: str
    residency: str
    device: str
    vram_resident_mib: int | None
    used_mib: int | None
    leases: int
    last_used_usec: int
    pinned: bool
    vram_managed: bool
    unit: str
    error: str
    doing: str = ""
    since_usec: int = 0
    memory: Footprint = field(default_factory=Footprint)
    times: LearnedTimes = field(default_factory=LearnedTimes)
    vram_auto: bool = False
    endpoint: str = ""
    preset: str = ""
    evict: tuple[str, ...] = ()
    lazy: bool = False
    busy: bool | None = None
    shared_with: tuple[str, ...] = ()
    shared_mib: int = 0
    used_by_device: Mapping[int, int] = field(default_factory=dict)
    unit_state: str = ""
    used_mib_history: Series = ()
    container: str = ""
    fleet: str = ""
    priority: int = 0
    retry_usec: int = 0


class AnnouncedConsumer(NamedTuple):
    """The values of a consumer whose changes are announced to clients; each is that of ``ConsumerStatus``.

    One is made for each change of a lease. A frozen dataclass would take three times as long, also for ``Summary``.
    """

    name: str
    residency: str
    device: str
    vram_resident_mib: int | None
    leases: int
    last_used_usec: int
    pinned: bool
    vram_managed: bool
    unit: str
    error: str
    vram_auto: bool
    container: str


@dataclass(frozen=True, slots=True)
class WaitingStatus:
    """A waiting request in a Status; ``position`` counts from 1.

    Without a consumer it is for a reservation of ``vram_mib``, or of the whole device.

    Attributes:
        id: unguessable handle of the request, for ``Cancel``.
        owner: the client that waits; None for a load without a client.
    """

    consumer: str
    position: int
    priority: int
    waited_usec: int
    waiting_for: str
    owner_uid: int
    reason: str = ""
    vram_mib: int = 0
    whole_device: bool = False
    id: str = ""
    owner: Owner | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A consistent snapshot of devices, consumers, leases and queue.

    Attributes:
        configured_usec: CLOCK_REALTIME microseconds at which the current configuration was read; 0 = unknown.
        driver_state: "open", "resting" (nothing needs readings), "asleep" (resting, and a card sleeps) or "released".
        history_usec: when the readings of the series were taken, CLOCK_REALTIME in microseconds, the oldest first.
        reserved_used_mib: MiB that the processes of each reservation hold, by lease id; unknown amounts are left out.
        concurrent_leases: most leases on one device at the same time; 0 = no limit.
    """

    version: str
    degraded: str
    devices: tuple[DeviceStatus, ...] = ()
    consumers: tuple[ConsumerStatus, ...] = ()
    leases: tuple[Lease, ...] = ()
    queue: tuple[WaitingStatus, ...] = ()
    stats: Stats = field(default_factory=Stats)
    configured_usec: int = 0
    reserved_used_mib: Mapping[str, int] = field(default_factory=dict)
    driver_state: str = "open"
    history_usec: tuple[int, ...] = ()
    concurrent_leases: int = 0


class Summary(NamedTuple):
    """The values that change most often, cheaper to get than a whole Status.

    Attributes:
        degraded: as in Status.
        queue_length: number of waiting requests.
        lease_count: number of active leases.
        eviction_count: number of successful evictions.
    """

    degraded: str = ""
    queue_length: int = 0
    lease_count: int = 0
    eviction_count: int = 0
