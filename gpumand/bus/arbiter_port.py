"""The arbiter as this side of it needs it: what a client asks for goes in here."""

from __future__ import annotations

from typing import Protocol

from gpumand.domain.history import Entry, Query
from gpumand.domain.lease import Lease, LeaseEnd, Owner
from gpumand.domain.request import AcquireOptions, Grant, Outcome, PlanReport
from gpumand.domain.status import ConsumerStatus, Status, Summary


class ArbiterPort(Protocol):
    """Every coroutine raises subclasses of GpumandError and nothing else.

    Events (gpumand.domain.events) are published synchronously and in order, after the state that they speak of is in
    force.
    """

    async def acquire(self, owner: Owner, consumer: str, options: AcquireOptions) -> Grant:
        """Return when the consumer is resident and the lease stands."""

    async def release(self, lease_id: str, reason: LeaseEnd = LeaseEnd.RELEASED) -> None:
        """End a lease. Raises NoSuchLease."""

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        """Give a ttl lease more time; None: the ttl it was granted with. Raises NoSuchLease, InvalidArgs."""

    def lease(self, lease_id: str) -> Lease:
        """A lease that stands. Raises NoSuchLease."""

    def consumer_unit(self, consumer: str) -> str:
        """The consumer's unit, "" when it has none. Raises NoSuchConsumer."""

    def consumer_status(self, consumer: str) -> ConsumerStatus:
        """One consumer of ``status()``, at the cost of one. Raises NoSuchConsumer."""

    def summary(self) -> Summary:
        """The Manager's properties, at a cost that does not grow with what is going on."""

    def status(self) -> Status:
        """One consistent snapshot of everything."""

    async def plan(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        """What ``acquire`` would do now; changes nothing."""

    async def load(self, consumer: str, device: str, timeout_sec: float) -> Outcome:
        """Make it resident without a lease."""

    async def evict(self, consumer: str, force: bool, timeout_sec: float, method: str = "") -> Outcome:
        """Take its memory back, by its methods in order or by the one named."""

    async def history(self, query: Query) -> tuple[Entry, ...]:
        """What happened, newest first."""

    async def pin(self, consumer: str, pinned: bool) -> None:
        """Keep it from being evicted, or no longer. Raises NoSuchConsumer."""

    async def reload(self) -> None:
        """Read the configuration again. Raises ConfigInvalid and then changes nothing."""

    async def owner_vanished(self, bus_name: str) -> None:
        """A client left the bus: its connection leases and its waiting requests end."""
