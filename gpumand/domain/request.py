"""Requests: what a client asks for, and what it is given."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpumand.domain.lease import Lease, LeaseLifetime, Owner

DEFAULT_TIMEOUT_SEC = 20.0
"""A client with the usual 25 s reply limit gets our named error and not NoReply."""

MAX_WAIT_SEC = 24 * 3600.0
"""No request waits longer than this, whatever it asks for."""

MIN_PRIORITY, MAX_PRIORITY = -100, 100


@dataclass(frozen=True, slots=True)
class AcquireOptions:
    """The options of ``Acquire``, checked and in our own units.

    Attributes:
        lifetime: what ends the lease besides Release.
        ttl_sec: for ``ttl`` leases; None = the configured ``lease_ttl_sec``.
        timeout_sec: how long to wait; 0 = now or not at all.
        priority: -100 to 100; None = the consumer's own.
        device: index or UUID; "" = the consumer's own, else any that fits.
        reason: what the client says it is for.
        token: idempotency token: the same token from the same owner gives the same lease; "" = none.
    """

    lifetime: LeaseLifetime = LeaseLifetime.TTL
    ttl_sec: float | None = None
    timeout_sec: float = DEFAULT_TIMEOUT_SEC
    priority: int | None = None
    device: str = ""
    reason: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """An Acquire that waits, or is about to be decided.

    Attributes:
        number: counts arrivals; unique in the life of the daemon.
        consumer: what is wanted.
        owner: who wants it.
        options: see there.
        priority: -100 to 100, already resolved.
        arrived_at: monotonic seconds.
    """

    number: int
    consumer: str
    owner: Owner
    options: AcquireOptions
    priority: int
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Grant:
    """What an Acquire was given.

    Attributes:
        lease: the lease.
        waited_usec: from the request's arrival to the grant.
        evicted: consumers that were evicted for it, in order.
        loaded: whether the consumer was loaded for it (False: it was resident already).
        endpoint: the consumer's URL where configured, else "".
    """

    lease: Lease
    waited_usec: int = 0
    evicted: tuple[str, ...] = ()
    loaded: bool = False
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What ``Load`` or ``Evict`` by hand did.

    Attributes:
        consumer: which one.
        device: index as text, "" when no device is known.
        changed: False when it was so already (resident before Load, not loaded before Evict).
        evicted: consumers evicted to make room (Load), or the consumer itself (Evict).
        method: how it was evicted ("http", "unit-stop"); "" for Load.
        freed_mib: MiB seen to become free (Evict); 0 where nothing can be measured.
        duration_usec: how long it took.
    """

    consumer: str
    device: str = ""
    changed: bool = False
    evicted: tuple[str, ...] = ()
    method: str = ""
    freed_mib: int = 0
    duration_usec: int = 0


@dataclass(frozen=True, slots=True)
class PlannedEviction:
    """One victim of a plan.

    Attributes:
        consumer: which one.
        expected_mib: MiB that its eviction should free; None where it cannot be told.
        method: the method tried first.
        why: one line for people: why this one.
        parks: it leaves the consumer's weights in host RAM.
    """

    consumer: str
    expected_mib: int | None
    method: str
    why: str
    parks: bool = False


@dataclass(frozen=True, slots=True)
class Spared:
    """A loaded consumer that a plan does not touch, and why, in one line."""

    consumer: str
    why: str


class Verdict(StrEnum):
    """What a decision comes to."""

    GRANT = "grant"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What Acquire would do now, and why.

    Attributes:
        consumer: what was asked about.
        verdict: "grant", "wait" or "refuse".
        device: index as text; "" when none could be chosen.
        resident: whether the consumer is resident already.
        load: whether it would be loaded.
        need_mib, free_mib: what it needs with the cushion, and what is free for it after reservations; None = unknown.
        evictions: victims in order.
        spared: loaded consumers on the device that are not victims.
        error: D-Bus name of the error for "refuse" (and what a wait of 0 would give for "wait"), else "".
        message: one line: why.
    """

    consumer: str
    verdict: Verdict
    device: str = ""
    resident: bool = False
    load: bool = False
    need_mib: int | None = None
    free_mib: int | None = None
    evictions: tuple[PlannedEviction, ...] = ()
    spared: tuple[Spared, ...] = ()
    error: str = ""
    message: str = ""
