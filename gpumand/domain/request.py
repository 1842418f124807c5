"""Requests of clients, and the values that answer them: grants, plans and results of manual operations."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpumand.domain.lease import Lease, LeaseLifetime, Owner

DEFAULT_TIMEOUT_SEC = 20.0
"""Below the usual D-Bus reply timeout of 25 s, so that a client gets the named error and not NoReply."""


@dataclass(frozen=True, slots=True)
class AcquireOptions:
    """The options of ``Acquire``, validated and converted to seconds.

    Attributes:
        lifetime: the event that ends the lease, apart from Release.
        ttl_sec: duration of a ``ttl`` lease; None = the configured ``lease_ttl_sec``.
        timeout_sec: maximum waiting time; 0 = do not wait.
        priority: -100 to 100; None = priority of the consumer.
        device: index, UUID or PCI address; "" = the devices configured for the consumer, else any with enough memory.
        reason: the purpose that the client states.
        token: idempotency token: the same token from the same owner yields the same lease; "" = none.
        vram_mib: MiB to reserve on each device, for a lease without a consumer; 0 = none.
        whole_device: reserve the whole device, for a lease without a consumer.
        restore: load the consumer again, once, when it loses its model or its process during the lease.
        exclusive: nothing else is leased on the devices while the lease is active.
        yield_lease: id of a lease of the same user whose consumer is given back for the time of the new one; "" = none.
        within: ids of leases that the caller keeps until this request is decided.
        on_behalf: the user and host for which the caller, a service of its own, makes the request; "" = for itself. It
            is the caller's own statement, which rules of polkit can use for callers that they trust.
    """

    lifetime: LeaseLifetime = LeaseLifetime.TTL
    ttl_sec: float | None = None
    timeout_sec: float = DEFAULT_TIMEOUT_SEC
    priority: int | None = None
    device: str = ""
    reason: str = ""
    token: str = ""
    vram_mib: int = 0
    whole_device: bool = False
    restore: bool = False
    exclusive: bool = False
    yield_lease: str = ""
    within: tuple[str, ...] = ()
    on_behalf: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """An Acquire call that is waiting or about to be decided.

    Attributes:
        number: consecutive number of the arrival; unique while the daemon runs.
        consumer: the requested consumer.
        owner: the client that sent it.
        options: options of the call.
        priority: -100 to 100, after defaults.
        arrived_at: monotonic seconds of its arrival.
    """

    number: int
    consumer: str
    owner: Owner
    options: AcquireOptions
    priority: int
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Grant:
    """The successful answer to an Acquire.

    Attributes:
        lease: the lease.
        waited_usec: from the arrival of the request to the grant.
        evicted: consumers evicted for the request, in order.
        loaded: whether the consumer was loaded for the request (False: it was resident already).
        endpoint: URL of the consumer where configured, else "".
    """

    lease: Lease
    waited_usec: int = 0
    evicted: tuple[str, ...] = ()
    loaded: bool = False
    endpoint: str = ""


@dataclass(frozen=True, slots=True)
class ManualResult:
    """The result of a manual operation, ``Load`` or ``Evict``.

    Attributes:
        consumer: the consumer that was loaded or evicted.
        device: index as text, "" when no device is known.
        changed: False when nothing had to be done (resident before Load, not loaded before Evict).
        evicted: consumers evicted to free memory (Load), or the consumer itself (Evict).
        method: method of the eviction ("http", "unit-stop"); "" for Load.
        freed_mib: MiB measured to become free (Evict); 0 where nothing can be measured.
        duration_usec: duration of the operation.
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
    """One eviction of a plan.

    Attributes:
        consumer: the victim.
        expected_mib: MiB that the eviction should free; None where unknown.
        method: the method that is tried first.
        why: why this consumer was chosen, in one line.
        parks: the eviction leaves the weights in host RAM.
    """

    consumer: str
    expected_mib: int | None
    method: str
    why: str
    parks: bool = False


@dataclass(frozen=True, slots=True)
class SparedConsumer:
    """A loaded consumer that a plan does not evict; ``why`` is the reason, in one line."""

    consumer: str
    why: str


class Verdict(StrEnum):
    """The result of a decision about a request."""

    GRANT = "grant"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class PlanReport:
    """The result of a dry run of Acquire: what it would do now, and why.

    Attributes:
        consumer: the consumer of the dry run.
        verdict: "grant", "wait" or "refuse".
        device: index as text; "" when none could be chosen.
        resident: whether the consumer is resident already.
        load: whether it would be loaded.
        need_mib, free_mib: MiB required including the cushion, and MiB free for it after reservations; None = unknown.
        evictions: planned evictions, in order.
        spared: loaded consumers on the device that are not evicted.
        error: D-Bus name of the error for "refuse", and for "wait" the error that a timeout of 0 would yield; else "".
        message: the reason, in one line.
        unnamed_mib: MiB in use on these devices beyond all processes that the driver names; None = unknown.
        expected_sec: expected seconds until the grant; None = it is refused, or the end of its wait is unknown.
        victims_sec: expected seconds that loading the victims again will cost; None = unknown.
    """

    consumer: str
    verdict: Verdict
    device: str = ""
    resident: bool = False
    load: bool = False
    need_mib: int | None = None
    free_mib: int | None = None
    evictions: tuple[PlannedEviction, ...] = ()
    spared: tuple[SparedConsumer, ...] = ()
    error: str = ""
    message: str = ""
    unnamed_mib: int | None = None
    expected_sec: float | None = None
    victims_sec: float | None = None
