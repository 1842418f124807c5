"""Events that the arbiter publishes, in the order in which they happened.

An event is published after the state change that it reports and before the reply that depends on it, so that an
observer of the bus sees the eviction before the grant.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.lease import Lease, LeaseEnd


@dataclass(frozen=True, slots=True)
class EvictionReport:
    """The course and the result of one eviction, successful or not.

    Attributes:
        consumer: the victim.
        device: index as text, "" when no device is known.
        freed_mib: MiB measured to become free; 0 where nothing could be measured.
        method: the method that freed the memory, or the last one tried ("http", "unit-stop").
        trigger: the cause: the consumer that needed the memory, "manual", or "idle".
        why: why this consumer was chosen, in one line.
        expected_mib: MiB that the eviction was expected to free; None where unknown.
        verified: whether VRAM readings confirmed it (False only where no source has readings).
        duration_usec: from the start of the first method until the memory was measured free.
        tried: all methods tried, in order.
        error: one line, for a failed eviction.
        deferred_by: number of jobs or connected clients for which the server puts its unload off, where the eviction
            was given up for another plan; 0 = it was not.
    """

    consumer: str
    device: str
    freed_mib: int
    method: str
    trigger: str
    why: str = ""
    expected_mib: int | None = None
    verified: bool = True
    duration_usec: int = 0
    tried: tuple[str, ...] = ()
    error: str = ""
    deferred_by: int = 0


@dataclass(frozen=True, slots=True)
class EvictionOccurred:
    """A consumer was evicted, and its memory was measured free."""

    report: EvictionReport


@dataclass(frozen=True, slots=True)
class EvictionFailed:
    """An eviction failed: no method freed the memory."""

    report: EvictionReport


@dataclass(frozen=True, slots=True)
class EvictionDeferred:
    """A server accepted an unload and has freed nothing while clients are connected or its jobs run.

    That is no failure: it may finish their requests first. It may also be a server whose unload does not work.
    """

    report: EvictionReport


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """A lease became active."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """The expiry of a lease was extended."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseYielded:
    """The consumer of a lease was given back for the time of a nested lease."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseReturned:
    """The consumer of a lease that was given back is resident again, and leased as before."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseWanted:
    """A waiting request cannot be granted before a lease ends.

    It is published once for each lease and waiting request.

    Attributes:
        lease: the lease.
        by: the consumer that is requested; "" for a reservation.
        since_usec: when the request arrived, CLOCK_REALTIME in microseconds.
    """

    lease: Lease
    by: str
    since_usec: int


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease ended.

    Attributes:
        lease: the lease.
        reason: why it ended.
        held_sec: how long it was active, by the monotonic clock, which does not count time spent suspended; None where
            the lease was granted before the daemon started.
    """

    lease: Lease
    reason: LeaseEnd
    held_sec: float | None = None

    def duration_sec(self, now_usec: int) -> float:
        """Seconds that the lease was active.

        ``held_sec`` where known, else the time from the grant to CLOCK_REALTIME ``now_usec``, which a change of the
        clock distorts.
        """
        return max(0, now_usec - self.lease.granted_usec) / 1e6 if self.held_sec is None else self.held_sec


@dataclass(frozen=True, slots=True)
class LeaseDegraded:
    """The consumer of an active lease has lost its model or its process; ``lease.degraded`` is the reason.

    It is published again when the reason changes.
    """

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseRestored:
    """The consumer of a degraded lease is resident again."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class ConsumersChanged:
    """The state of these consumers changed (residency, leases, pin, error), or a reload added or removed them."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """A device was added, removed, or changed in something other than its memory readings."""


@dataclass(frozen=True, slots=True)
class SummaryChanged:
    """A property of the Manager may have changed: degraded, queue length, lease count, eviction count."""


@dataclass(frozen=True, slots=True)
class LoadFinished:
    """A load ended, successfully or not.

    Attributes:
        consumer: the consumer that was loaded.
        device: index as text.
        duration_usec: duration of the load.
        error: one line; "" when the consumer is resident.
        started: the load started the unit; False when the server was already running without its model in VRAM.
    """

    consumer: str
    device: str
    duration_usec: int
    error: str = ""
    started: bool = False


@dataclass(frozen=True, slots=True)
class RequestGranted:
    """An Acquire ended with a lease; the reply to the client follows.

    Attributes:
        consumer: the requested consumer.
        waited_usec: from the arrival of the request to the grant.
        lease: the lease.
        priority: priority of the request, after defaults.
    """

    consumer: str
    waited_usec: int
    lease: Lease
    priority: int = 0


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """An Acquire ended with an error.

    Attributes:
        consumer: the requested consumer; it need not be configured.
        uid: user id of the client.
        error: D-Bus name of the error.
        message: one line.
    """

    consumer: str
    uid: int
    error: str
    message: str


STATE_CHANGE_EVENTS = (ConsumersChanged, DevicesChanged, SummaryChanged)
"""Events that only say that some state may have changed; all others report an action."""

Event = (
    EvictionOccurred
    | EvictionFailed
    | EvictionDeferred
    | LeaseGranted
    | LeaseRenewed
    | LeaseYielded
    | LeaseReturned
    | LeaseWanted
    | LeaseEnded
    | LeaseDegraded
    | LeaseRestored
    | ConsumersChanged
    | DevicesChanged
    | SummaryChanged
    | LoadFinished
    | RequestGranted
    | RequestRefused
)
