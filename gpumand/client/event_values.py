"""Immutable values of the events that ``watch`` yields; ``gpumand.client.values`` describes their units."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Eviction:
    """A consumer was evicted, or could not be, or its unload is put off.

    Attributes:
        consumer: name of the consumer.
        succeeded: whether its memory became free.
        device: index of the GPU as text; "" if unknown.
        freed_mib: memory that was measured to become free; 0 if it cannot be measured.
        method: the method that freed it, or that was tried last.
        trigger: name of the consumer that needed the memory, or "manual", or "idle".
        expected_mib: memory that was expected to become free; None = unknown.
        duration_sec: duration of the eviction.
        why: why this consumer was chosen, as text.
        error: why it failed, or is put off; "" if it succeeded.
        deferred: it has not failed: its unload was accepted, and waits while clients are connected or its jobs run.
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
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class LeaseGranted:
    """A lease of any owner was granted."""

    lease: str
    consumer: str


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """A lease of any owner has ended.

    ``reason`` is "released", "expired", "owner-vanished", "unit-stopped", "revoked", "shutdown" or
    "not-restored" (its consumer was given back for a nested lease and could not be loaded again); more may be added.
    """

    lease: str
    consumer: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseDegraded:
    """The consumer of an active lease has lost its model or its process; ``reason`` says what happened."""

    lease: str
    consumer: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRestored:
    """The consumer of a degraded lease is resident again."""

    lease: str
    consumer: str


@dataclass(frozen=True, slots=True)
class LeaseWanted:
    """A request for the consumer ``by`` ("" = a reservation) waits since ``since`` for the end of a lease."""

    lease: str
    by: str
    since: datetime | None


@dataclass(frozen=True, slots=True)
class LeaseYielded:
    """The consumer of a lease was given back for a nested lease; the lease stays active."""

    lease: str
    consumer: str


@dataclass(frozen=True, slots=True)
class LeaseReturned:
    """The consumer of a lease that was given back is resident again, and leased as before."""

    lease: str
    consumer: str


@dataclass(frozen=True, slots=True)
class RunningChanged:
    """gpumand appeared on the bus or left it."""

    running: bool


Event = (
    Eviction
    | LeaseGranted
    | LeaseEnded
    | LeaseDegraded
    | LeaseRestored
    | LeaseWanted
    | LeaseYielded
    | LeaseReturned
    | RunningChanged
)
"""The events that ``watch`` yields."""
