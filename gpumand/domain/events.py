"""What the arbiter tells the world, in the order in which it happened.

An event is published after the state it speaks of is in force and before the reply it leads to, so that an observer
of the bus sees the eviction before the grant.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.lease import Lease, LeaseEnd


@dataclass(frozen=True, slots=True)
class EvictionReport:
    """One eviction, or one that did not work.

    Attributes:
        consumer: the victim.
        device: index as text, "" when no device is known.
        freed_mib: MiB seen to become free; 0 where nothing could be measured.
        method: the method that freed it, or the last that was tried ("http", "unit-stop").
        trigger: for whom or what: the consumer that needed the room, "manual", or "idle".
        why: one line: why this victim.
        expected_mib: MiB it was expected to free; None where that could not be told.
        verified: whether NVML showed it (False only where no source can show anything).
        duration_usec: from the first method's start to the memory seen free.
        tried: every method tried, in order.
        error: one line, for a failed eviction.
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


@dataclass(frozen=True, slots=True)
class EvictionOccurred:
    """The memory was seen free."""

    report: EvictionReport


@dataclass(frozen=True, slots=True)
class EvictionFailed:
    """No method gave the memory back."""

    report: EvictionReport


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """A lease stands."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseRenewed:
    """A lease was given more time."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease is gone.

    Attributes:
        lease: it.
        reason: why.
        held_sec: how long it stood, by a clock that nobody sets and that stands still while the host is suspended; None
            where it was granted before our start.
    """

    lease: Lease
    reason: LeaseEnd
    held_sec: float | None = None

    def stood_sec(self, now_usec: int) -> float:
        """How long it stood, as far as that is known, when it is CLOCK_REALTIME ``now_usec``."""
        return max(0, now_usec - self.lease.granted_usec) / 1e6 if self.held_sec is None else self.held_sec


@dataclass(frozen=True, slots=True)
class ConsumersChanged:
    """State of these consumers changed (residency, leases, pin, error), or they came or went with a reload."""

    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class DevicesChanged:
    """A device came, went, or changed in something else than its figures."""


@dataclass(frozen=True, slots=True)
class SummaryChanged:
    """One of the Manager's properties may have changed: degraded, queue length, lease count, eviction count."""


@dataclass(frozen=True, slots=True)
class LoadFinished:
    """A load ended, well ("") or not.

    Attributes:
        consumer: which one.
        device: index as text.
        duration_usec: how long it took.
        error: one line, "" when it is resident.
        started: its unit was started for it; else its server ran already, without its model in VRAM.
    """

    consumer: str
    device: str
    duration_usec: int
    error: str = ""
    started: bool = False


@dataclass(frozen=True, slots=True)
class RequestGranted:
    """An Acquire ended with a lease that its client is about to hear of.

    Attributes:
        consumer: what for.
        waited_usec: from the request's arrival to the grant.
        lease: the lease.
        priority: the request's, as resolved.
    """

    consumer: str
    waited_usec: int
    lease: Lease
    priority: int = 0


@dataclass(frozen=True, slots=True)
class RequestRefused:
    """An Acquire ended with an error.

    Attributes:
        consumer: what for; it need not be configured.
        uid: whose it was.
        error: D-Bus name of the error.
        message: one line.
    """

    consumer: str
    uid: int
    error: str
    message: str


STATE_CHANGES = (ConsumersChanged, DevicesChanged, SummaryChanged)
"""Those that only say that some state may be another now; all others tell what was done."""

Event = (
    EvictionOccurred
    | EvictionFailed
    | LeaseGranted
    | LeaseRenewed
    | LeaseEnded
    | ConsumersChanged
    | DevicesChanged
    | SummaryChanged
    | LoadFinished
    | RequestGranted
    | RequestRefused
)
