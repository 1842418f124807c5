"""Immutable values that the clients return.

Sizes are integers in MiB, durations are in seconds, points in time are ``datetime`` in UTC. None stands for unknown, or
for an expiry that does not exist; 0 never does. Strings are as the daemon sends them. Keys that a later daemon adds are
ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from gpumand.client.event_values import (
    Event,
    Eviction,
    LeaseDegraded,
    LeaseEnded,
    LeaseGranted,
    LeaseRestored,
    LeaseReturned,
    LeaseWanted,
    LeaseYielded,
    RunningChanged,
)

__all__ = [
    "Consumer",
    "Device",
    "Event",
    "Eviction",
    "ForeignProcess",
    "Grant",
    "HeldProcess",
    "HistoryEntry",
    "LeaseDegraded",
    "LeaseEnded",
    "LeaseGranted",
    "LeaseRestored",
    "LeaseReturned",
    "LeaseWanted",
    "LeaseYielded",
    "Outcome",
    "Plan",
    "PlannedEviction",
    "RunningChanged",
    "Spared",
    "StandingLease",
    "Status",
    "WaitingRequest",
]


@dataclass(frozen=True, slots=True)
class Grant:
    """A granted lease.

    Attributes:
        id: id of the lease, for ``release`` and ``renew``.
        consumer: name of the leased consumer; "" for a reservation.
        device: index of the GPU as text; "" if unknown.
        endpoint: the consumer's URL; "" if none is configured.
        evicted: names of the consumers that were evicted for it, in order.
        loaded: whether the consumer was loaded for it; False if it was already resident.
        waited_sec: seconds from the call to the grant.
        expires_at: when the lease expires; None = never.
        vram_mib: MiB that are reserved on each device; None for a lease on a consumer, and with ``all``.
        all: whether the whole GPU is reserved.
    """

    id: str
    consumer: str
    device: str
    endpoint: str
    evicted: tuple[str, ...]
    loaded: bool
    waited_sec: float
    expires_at: datetime | None
    vram_mib: int | None = None
    all: bool = False


@dataclass(frozen=True, slots=True)
class ForeignProcess:
    """A process that holds VRAM and belongs to no consumer. ``uid`` and ``used_mib`` are None if unknown.

    ``pid`` is 0 for a unit whose memory is known only as a whole. ``container`` is the name of its container, or the
    beginning of the container's id; "" outside of containers.
    """

    pid: int
    name: str
    unit: str
    uid: int | None
    user: str
    used_mib: int | None
    container: str = ""


@dataclass(frozen=True, slots=True)
class HeldProcess(ForeignProcess):
    """A process that holds VRAM for the ``consumers``, which are several in a shared unit, or for a reservation.

    ``lease`` is the id of the reservation; "" for a process of consumers.
    """

    consumers: tuple[str, ...] = ()
    lease: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Attributes:
        index, uuid, name: as the driver reports them.
        source: "nvml", "amdgpu", "xe", "simulated" or "none".
        total_mib, used_mib, free_mib: of the last reading; None = unknown.
        reserved_mib: memory of consumers that are loading and of reservations, not yet visible in ``used_mib``.
        foreign_mib: memory of processes that belong to no consumer.
        sampled_at: time of the last reading; None = never read.
        error: why the device cannot be read; "" if it can.
        foreign: the largest foreign processes.
        processes: the largest processes of consumers and reservations.
        pool: "vram", "unified" or "host".
        integrated: a GPU in the processor.
        attribution: how memory is attributed to units: "dmem", "kfd", "nvml" …; "" = not at all.
        asleep: the card is suspended, or was until a few seconds ago.
        aliases: further names of the device, such as its PCI address.
        utilization_percent: share of time in which the GPU was working; None = unknown.
        temperature_celsius, temperature_limit_celsius: its temperature, and the one at which it is slowed down.
        power_watts, power_limit_watts: its power draw, and the limit of it.
        unnamed_mib: memory in use beyond all processes that the driver names; None = unknown.
        unchecked: no source of readings exists, so that loads are not checked against real memory.
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
    sampled_at: datetime | None
    error: str
    foreign: tuple[ForeignProcess, ...]
    pool: str = "vram"
    integrated: bool = False
    attribution: str = ""
    asleep: bool = False
    aliases: tuple[str, ...] = ()
    utilization_percent: int | None = None
    temperature_celsius: int | None = None
    temperature_limit_celsius: int | None = None
    power_watts: float | None = None
    power_limit_watts: float | None = None
    unnamed_mib: int | None = None
    unchecked: bool = False
    processes: tuple[HeldProcess, ...] = ()


@dataclass(frozen=True, slots=True)
class Consumer:
    """A configured service.

    Attributes:
        name: as configured.
        residency: "unknown", "unloaded", "parked", "loading", "resident", "unloading" or "failed".
        device: index of the GPU as text; "" if unknown.
        vram_resident_mib: memory that it is expected to need; None = unknown, and then requests for it are refused.
        used_mib: memory of the last reading; None = unknown.
        leases: number of active leases on it.
        last_used_at: when it was last used; None = never.
        pinned: whether it is protected from eviction.
        vram_managed: whether it manages its own memory and is never evicted.
        unit: its systemd unit; "" if it has none.
        error: its last error; "" if there is none.
        doing: the operation in progress, as text.
        since: when its residency last changed; None = unknown.
        endpoint: its URL; "" if none is configured.
        preset: the preset of its configuration; "" without one.
        container: the name of its container in the configuration; "" without one.
        fleet: "unique" if only one host of a fleet may have it loaded; "" otherwise.
    """

    name: str
    residency: str
    device: str
    vram_resident_mib: int | None
    used_mib: int | None
    leases: int
    last_used_at: datetime | None
    pinned: bool
    vram_managed: bool
    unit: str
    error: str
    doing: str
    since: datetime | None
    endpoint: str
    preset: str = ""
    container: str = ""
    fleet: str = ""


@dataclass(frozen=True, slots=True)
class StandingLease:
    """An active lease of any owner.

    Attributes:
        id, consumer, device, reason: as in its grant.
        owner_uid: user id of the owner.
        owner: the owner as text: its systemd unit, else its process.
        lifetime: "ttl", "connection" or "unit".
        granted_at: when it was granted.
        expires_at: when it expires; None = never.
        vram_mib, all: what is reserved where ``consumer`` is ""; see ``Grant``.
        program: the program that made a reservation; "" if unknown.
        used_mib: memory that the program of a reservation holds; None if unknown, and for a lease on a consumer.
        restore: the consumer is loaded again, once, when it is lost during the lease.
        degraded: why the leased consumer is not resident; "" = it is resident.
        exclusive: nothing else is leased on its device.
        yielded: its consumer is given back at the moment, for a nested lease.
        yields: id of the lease that is given back for this one; "" = none.
    """

    id: str
    consumer: str
    device: str
    owner_uid: int
    owner: str
    lifetime: str
    granted_at: datetime | None
    expires_at: datetime | None
    reason: str
    vram_mib: int | None = None
    all: bool = False
    program: str = ""
    used_mib: int | None = None
    restore: bool = False
    degraded: str = ""
    exclusive: bool = False
    yielded: bool = False
    yields: str = ""


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A waiting request. ``position`` counts from 1; ``waiting_for`` gives the reason as text.

    A request for a reservation has an empty ``consumer``, and ``vram_mib`` or ``all``. ``id`` is its handle, for
    ``cancel``.
    """

    consumer: str
    position: int
    priority: int
    waited_sec: float
    waiting_for: str
    owner_uid: int | None
    reason: str
    vram_mib: int | None = None
    all: bool = False
    id: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """One consistent snapshot of everything.

    Attributes:
        version: version of the daemon.
        degraded: "" in normal operation, else ``word: one line``.
        devices, consumers, leases, queue: see their classes.
        stats: counters since the daemon started, by name; ``…_usec`` are sums.
    """

    version: str
    degraded: str
    devices: tuple[Device, ...]
    consumers: tuple[Consumer, ...]
    leases: tuple[StandingLease, ...]
    queue: tuple[WaitingRequest, ...]
    stats: Mapping[str, int]

    def consumer(self, name: str) -> Consumer | None:
        """The consumer of the given name; None if there is none."""
        return next((one for one in self.consumers if one.name == name), None)


@dataclass(frozen=True, slots=True)
class PlannedEviction:
    """A victim of a plan.

    Attributes:
        consumer: name of the victim.
        expected_mib: memory that its eviction is expected to free; None = unknown.
        method: the method that would evict it.
        why: why it is chosen, as text.
        parks: whether its weights stay in host RAM.
    """

    consumer: str
    expected_mib: int | None
    method: str
    why: str
    parks: bool = False


@dataclass(frozen=True, slots=True)
class Spared:
    """A loaded consumer that a plan does not evict, and the reason."""

    consumer: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request would do now, and why.

    Attributes:
        consumer: name of the requested consumer.
        verdict: "grant", "wait" or "refuse".
        device: index of the GPU as text; "" if none could be chosen.
        resident: whether the consumer is already resident.
        load: whether it would be loaded.
        need_mib, free_mib: memory that it needs including the cushion, and memory free for it; None = unknown.
        evictions: victims, in order.
        spared: loaded consumers that would not be evicted.
        error: D-Bus name of the error of a refusal, or of a call that does not wait; else "".
        message: the reason, in one line.
        unnamed_mib: memory in use there beyond all processes that the driver names; None = unknown.
        expected_sec: expected seconds until the grant; None = it is refused, or the end of the wait is unknown.
        victims_sec: expected seconds that loading the victims again will cost; None = unknown.
    """

    consumer: str
    verdict: str
    device: str
    resident: bool
    load: bool
    need_mib: int | None
    free_mib: int | None
    evictions: tuple[PlannedEviction, ...]
    spared: tuple[Spared, ...]
    error: str
    message: str
    unnamed_mib: int | None = None
    expected_sec: float | None = None
    victims_sec: float | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a manual load or eviction.

    Attributes:
        consumer: name of the consumer.
        device: index of the GPU as text; "" if unknown.
        changed: False if the consumer was already loaded, or already unloaded.
        evicted: names of the evicted consumers, in order.
        method: the eviction method; "" for a load.
        freed_mib: memory that was measured to become free; 0 if it cannot be measured.
        duration_sec: duration of the operation.
    """

    consumer: str
    device: str
    changed: bool
    evicted: tuple[str, ...]
    method: str
    freed_mib: int
    duration_sec: float


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An entry of the history.

    Attributes:
        at: when the event ended.
        kind: "grant", "end", "refusal", "load", "load-failed", "eviction" or "eviction-failed"; later versions may add
            more.
        consumer: name of the consumer.
        device: index of the GPU as text; "" if unknown.
        duration_sec: duration of the wait, the lease, the load or the eviction; None if it has none.
        freed_mib: memory freed by an eviction; None otherwise.
        method, trigger: the eviction method, and the consumer or event that caused the eviction.
        detail: the reason, in one line.
        uid: user id of the owner of the lease or request; None if it has no owner.
        lease: id of the lease; "" for none.
    """

    at: datetime | None
    kind: str
    consumer: str
    device: str
    duration_sec: float | None
    freed_mib: int | None
    method: str
    trigger: str
    detail: str
    uid: int | None
    lease: str
