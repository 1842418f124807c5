"""Snapshots of everything, as ``GetStatus`` shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gpumand.domain.device import ProcessUse
from gpumand.domain.footprint import Footprint
from gpumand.domain.learning import Learned
from gpumand.domain.lease import Lease

MAX_FOREIGN = 16
"""Foreign processes of a device in a Status; a desktop has more, and each of them holds little."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters since the daemon started; ``evictions`` counts evictions seen to succeed.

    The ``…_usec`` figures are sums over all of their kind, so that a mean can be told.
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
class DeviceStatus:
    """A device in a Status; None = unknown.

    Attributes:
        foreign: processes that hold memory and belong to no consumer, the largest first, at most ``MAX_FOREIGN``.
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


@dataclass(frozen=True, slots=True)
class ConsumerStatus:
    """A consumer in a Status.

    Attributes:
        vram_resident_mib: None when unknown.
        used_mib: None when unknown.
        doing: what is being done with it now, for a progress line: "" or for example "loading for 12 s",
            "unloading by http".
        since_usec: CLOCK_REALTIME microseconds since when its residency is what it is; 0 unknown.
        memory: what it was measured to hold.
        times: how long things take with it, as far as was seen.
        vram_auto: ``vram_resident_mib`` was measured, or guessed until it is; not declared.
        endpoint: its URL, "" where none is configured.
        evict: its methods, in the order in which they are tried.
        lazy: only its own requests put its model into VRAM.
        busy: it said that it works; None where that is unknown.
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
    times: Learned = field(default_factory=Learned)
    vram_auto: bool = False
    endpoint: str = ""
    evict: tuple[str, ...] = ()
    lazy: bool = False
    busy: bool | None = None


@dataclass(frozen=True, slots=True)
class WaitingStatus:
    """A request in a Status; position counts from 1."""

    consumer: str
    position: int
    priority: int
    waited_usec: int
    waiting_for: str
    owner_uid: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """One consistent snapshot of everything.

    Attributes:
        configured_usec: CLOCK_REALTIME of when the configuration in force was read; 0 unknown.
    """

    version: str
    degraded: str
    devices: tuple[DeviceStatus, ...] = ()
    consumers: tuple[ConsumerStatus, ...] = ()
    leases: tuple[Lease, ...] = ()
    queue: tuple[WaitingStatus, ...] = ()
    stats: Stats = field(default_factory=Stats)
    configured_usec: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What changes with every step and is cheap to tell, without taking a whole Status.

    Attributes:
        degraded: as in Status.
        queue_length: requests that wait.
        lease_count: leases that stand.
        eviction_count: evictions seen to succeed.
    """

    degraded: str = ""
    queue_length: int = 0
    lease_count: int = 0
    eviction_count: int = 0
