"""The interface that the D-Bus service requires of the arbiter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from gpumand.domain.driver_release import ReleaseOptions, ReleaseReport
from gpumand.domain.history import HistoryEntry, HistoryQuery
from gpumand.domain.lease import Lease, LeaseEnd, Owner
from gpumand.domain.request import AcquireOptions, Grant, ManualResult, PlanReport
from gpumand.domain.status import AnnouncedConsumer, ConsumerStatus, Status, Summary


class ArbiterPort(Protocol):
    """What the arbiter does for D-Bus clients.

    Every coroutine raises subclasses of GpumandError and nothing else. The arbiter publishes events
    (gpumand.domain.events) synchronously and in order, after the state that they describe has changed.
    """

    async def acquire(self, owner: Owner, consumer: str, options: AcquireOptions) -> Grant:
        """Wait until the consumer is resident, then grant a lease on it."""

    async def release(self, lease_id: str, reason: LeaseEnd = LeaseEnd.RELEASED) -> None:
        """End a lease. Raises NoSuchLease."""

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        """Extend a ttl lease, counted from now; ``ttl_sec`` None repeats the ttl of the grant.

        Raises:
            NoSuchLease: there is no such lease.
            InvalidArgs: the lease has another lifetime than ``ttl``.
        """

    def request_owner(self, request_id: str) -> Owner:
        """Return the client of a waiting request. Raises NoSuchRequest."""

    def cancel(self, request_id: str, caller: Owner) -> None:
        """Refuse a waiting request with the error Cancelled. Raises NoSuchRequest."""

    def lease(self, lease_id: str) -> Lease:
        """Return an active lease. Raises NoSuchLease."""

    def consumer_unit(self, consumer: str) -> str:
        """Return the consumer's systemd unit, "" when it has none. Raises NoSuchConsumer."""

    def consumer_fleet(self, consumer: str) -> str:
        """Return the key ``fleet`` of the consumer: "unique", or "" when it has none. Raises NoSuchConsumer."""

    def consumer_status(self, consumer: str) -> ConsumerStatus:
        """Return the status of one consumer without computing the others. Raises NoSuchConsumer."""

    def announced_consumer(self, consumer: str) -> AnnouncedConsumer | ConsumerStatus:
        """Return the announced values of one consumer, which change with every lease. Raises NoSuchConsumer."""

    def lease_count(self) -> int:
        """Return the number of active leases."""

    def summary(self) -> Summary:
        """Return the values of the Manager's properties, in constant time."""

    def status(self) -> Status:
        """Return one consistent snapshot of devices, consumers, leases, queue and counters."""

    def status_refresh(self) -> Awaitable[None] | None:
        """Return a reading to await before ``status``, where none was taken for a while; None = not needed."""

    async def release_gpu(
        self, owner: Owner, options: ReleaseOptions, ended: Callable[[], None] | None = None
    ) -> ReleaseReport:
        """Close the GPU driver until ``take_gpu``; ``ended`` is called when the release ends or fails.

        Raises:
            Busy: consumers use the GPU, or the driver is released already.
            TimedOut: a load or an eviction did not end in time.
            DeviceUnavailable: the driver does not answer.
        """

    def take_gpu(self) -> bool:
        """Use the GPU driver again; returns whether it was released."""

    async def plan(self, owner: Owner, consumer: str, options: AcquireOptions) -> PlanReport:
        """Report what ``acquire`` would do now, without changing anything."""

    async def load(self, consumer: str, device: str, timeout_sec: float) -> ManualResult:
        """Make a consumer resident without granting a lease."""

    async def evict(self, consumer: str, force: bool, timeout_sec: float, method: str = "") -> ManualResult:
        """Free a consumer's VRAM, by its methods in order or only by ``method``."""

    async def history(self, query: HistoryQuery) -> tuple[HistoryEntry, ...]:
        """Return recorded grants, loads, evictions and refusals, newest first."""

    async def pin(self, consumer: str, pinned: bool) -> None:
        """Protect a consumer from eviction, or end that protection. Raises NoSuchConsumer."""

    async def reload(self) -> None:
        """Read the configuration again. Raises ConfigInvalid, and keeps the old configuration then."""

    async def owner_vanished(self, bus_name: str) -> None:
        """End the connection leases and the waiting requests of a client that left the bus."""
