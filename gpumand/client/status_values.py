"""Immutable values of a status; ``gpumand.client.values`` describes their units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


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
        attribution_gap: why it is unknown which unit holds how much; "" if there is no such reason.
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
    attribution_gap: str = ""


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
        priority: priority of requests that name none; None = the daemon does not say it.
        retry_at: no load is tried before this time, after failed ones; None = there is no such pause.
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
    priority: int | None = None
    retry_at: datetime | None = None


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
