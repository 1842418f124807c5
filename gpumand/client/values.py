"""Immutable values that the clients return.

Sizes are integers in MiB, durations are in seconds, points in time are ``datetime`` in UTC. None stands for unknown, or
for an expiry that does not exist; 0 never does. Strings are as the daemon sends them. Keys that a later daemon adds are
ignored.
"""

from __future__ import annotations

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
from gpumand.client.status_values import (
    Consumer,
    Device,
    ForeignProcess,
    HeldProcess,
    StandingLease,
    Status,
    WaitingRequest,
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
