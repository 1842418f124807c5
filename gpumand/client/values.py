"""What the clients answer: values that never change.

MiB are integers, durations are seconds, points in time are ``datetime`` in UTC. None stands for unknown (or, of an
expiry, for never); it is never 0. Strings are as the daemon sends them. A later daemon may say more than these tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Grant:
    """What an Acquire was given.

    Attributes:
        id: the lease's, for ``release`` and ``renew``.
        consumer: what it is for.
        device: index of the GPU as text; "" where none is known.
        endpoint: the consumer's URL; "" where none is configured.
        evicted: names of the consumers that were evicted for it, in order.
        loaded: whether the consumer was loaded for it; False: it was resident already.
        waited_sec: how long it took from the call to the grant.
        expires_at: when it ends by itself; None = never.
    """

    id: str
    consumer: str
    device: str
    endpoint: str
    evicted: tuple[str, ...]
    loaded: bool
    waited_sec: float
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class ForeignProcess:
    """A process that holds VRAM and belongs to no consumer. ``uid`` and ``used_mib`` are None when unknown."""

    pid: int
    name: str
    unit: str
    uid: int | None
    user: str
    used_mib: int | None


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU.

    Attributes:
        index, uuid, name: as the driver has them.
        source: "nvml" or "simulated".
        total_mib, used_mib, free_mib: as it was read last; None = unknown.
        reserved_mib: of consumers that are loading, not yet visible in ``used_mib``.
        foreign_mib: held by processes that belong to no consumer.
        sampled_at: when it was read; None = never.
        error: why it cannot be read; "" where it can.
        foreign: the largest of the foreign processes.
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


@dataclass(frozen=True, slots=True)
class Consumer:
    """A configured service.

    Attributes:
        name: as configured.
        residency: "unknown", "unloaded", "parked", "loading", "resident", "unloading" or "failed".
        device: index of the GPU as text; "" where none is known.
        vram_resident_mib: what it is expected to need; None = nobody knows, and then it is not lent.
        used_mib: what it was seen to hold; None = unknown.
        leases: how many stand on it.
        last_used_at: None = never.
        pinned: whether it is kept from eviction.
        vram_managed: whether it manages its memory by itself, and is no victim.
        unit: its systemd unit; "" where it has none.
        error: what went wrong last; "" where all is well.
        doing: what is being done with it now, for people.
        since: since when its residency is what it is; None = unknown.
        endpoint: its URL; "" where none is configured.
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


@dataclass(frozen=True, slots=True)
class StandingLease:
    """A lease that stands, whoever's it is.

    Attributes:
        id, consumer, device, reason: as in its grant.
        owner_uid: user id of who asked.
        owner: who asked, for people: its systemd unit, else its process.
        lifetime: "ttl", "connection" or "unit".
        granted_at: when it began.
        expires_at: when it ends by itself; None = never.
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


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """An Acquire that waits. ``position`` counts from 1; ``waiting_for`` says in words what for."""

    consumer: str
    position: int
    priority: int
    waited_sec: float
    waiting_for: str
    owner_uid: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Status:
    """One consistent snapshot of everything.

    Attributes:
        version: the daemon's.
        degraded: "" when all is well, else ``word: one line``.
        devices, consumers, leases, queue: see there.
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
        """The consumer of that name, or None where there is none."""
        return next((one for one in self.consumers if one.name == name), None)


@dataclass(frozen=True, slots=True)
class PlannedEviction:
    """A victim of a plan. ``expected_mib`` is None where it cannot be told; ``why`` is for people.

    ``parks``: its weights stay in host RAM.
    """

    consumer: str
    expected_mib: int | None
    method: str
    why: str
    parks: bool = False


@dataclass(frozen=True, slots=True)
class Spared:
    """A loaded consumer that a plan leaves alone, and why."""

    consumer: str
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What Acquire would do now, and why.

    Attributes:
        consumer: what was asked about.
        verdict: "grant", "wait" or "refuse".
        device: index of the GPU as text; "" where none could be chosen.
        resident: whether the consumer is resident already.
        load: whether it would be loaded.
        need_mib, free_mib: what it needs with the cushion, and what is free for it; None = unknown.
        evictions: victims, in order.
        spared: loaded consumers that would not be evicted.
        error: D-Bus name of the error of a refusal, or of a call that does not wait; else "".
        message: why, in one line.
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """What Load or Evict by hand did.

    Attributes:
        consumer: which one.
        device: index of the GPU as text; "" where none is known.
        changed: False where it was so already.
        evicted: who was evicted, in order.
        method: how it was evicted; "" for Load.
        freed_mib: seen to become free; 0 where nothing can be measured.
        duration_sec: how long it took.
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
    """One thing that happened.

    Attributes:
        at: when it was over.
        kind: "grant", "end", "refusal", "load", "load-failed", "eviction" or "eviction-failed"; more may come.
        consumer: to whom.
        device: index of the GPU as text; "" where none is known.
        duration_sec: of a grant's wait, a lease, a load, an eviction; None where that says nothing.
        freed_mib: by an eviction; None otherwise.
        method, trigger: how it was evicted, and for whom or what.
        detail: why, in one line.
        uid: whose lease or request it was; None for what belongs to nobody.
        lease: its id; "" for none.
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


@dataclass(frozen=True, slots=True)
class Eviction:
    """A consumer was evicted, or could not be.

    Attributes:
        consumer: who.
        succeeded: whether its memory was seen free.
        device: index of the GPU as text; "" where none is known.
        freed_mib: seen to become free; 0 where nothing can be measured.
        method: the method that freed it, or that was tried last.
        trigger: the consumer that needed the room, or "manual", or "idle".
        expected_mib: what was expected; None = unknown.
        duration_sec: how long it took.
        why: why this one, for people.
        error: why it failed; "" where it did not.
    """

    consumer: str
    succeeded: bool
    device: str
    freed_mib: int
    method: str
    trigger: str
    expected_mib: int | None
    duration_sec: float
    why: str
    error: str


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """A lease stands, whoever's it is."""

    lease: str
    consumer: str


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease is gone.

    ``reason`` is "released", "expired", "owner-vanished", "unit-stopped", "revoked" or "shutdown"; more may come.
    """

    lease: str
    consumer: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunningChanged:
    """gpumand came onto the bus, or left it."""

    running: bool


Event = Eviction | LeaseGranted | LeaseEnded | RunningChanged
"""What ``watch`` tells."""
