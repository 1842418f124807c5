"""Leases: created, saved so that they survive a restart of the daemon, renewed and ended."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from gpumand.arbiter import log_messages
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.state import ArbiterState
from gpumand.arbiter.unobserved_leases import UnobservedLeases
from gpumand.domain.consumer import UnitActivity, UnitState, reservation_spec
from gpumand.domain.device import Devices, format_devices, parse_devices
from gpumand.domain.errors import HostError, InvalidArgs, NoSuchLease
from gpumand.domain.events import LeaseDegraded, LeaseEnded, LeaseGranted, LeaseRenewed, LeaseReturned, LeaseYielded
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime
from gpumand.domain.request import Request
from gpumand.domain.view import ConsumerState
from gpumand.ports import OwnerPresence, Store, UnitFailed, UnitManager

log = logging.getLogger(__name__)


def new_lease_id() -> str:
    """A random id of 20 hex digits: short enough to be typed, long enough to be neither guessed nor repeated."""
    return os.urandom(10).hex()


class Leases:
    """Keeps the leases in the ledger and in the store consistent.

    Attributes:
        expiry_moved: set when a lease expires before ``next_expiry_check``.
        next_expiry_check: when the expiry loop checks next, in monotonic seconds.
        shared: ids of leases that were returned to a second call with the same token.
        on_end: called with each lease that has ended, in the ledger.
    """

    def __init__(
        self, state: ArbiterState, reconciler: Reconciler, store: Store, new_id: Callable[[], str] = new_lease_id
    ) -> None:
        self._state = state
        self._reconciler = reconciler
        self._store = store
        self._new_id = new_id
        self._deleting: set[asyncio.Task[None]] = set()
        self._used_consumers: set[str] = set()
        self._consumer_write_lock = asyncio.Lock()
        self._announced = state.announced_leases
        self._granted_at: dict[str, float] = {}
        self._unobserved = UnobservedLeases(state, reconciler)
        self.shared: set[str] = set()
        self.on_end: Callable[[Lease], None] = lambda lease: None
        self.expiry_moved = asyncio.Event()
        self.next_expiry_check = float("-inf")

    # -- granting ------------------------------------------------------------------------------------------------

    def create(self, request: Request, devices: Devices) -> Lease:
        """Create a lease for a request, in the ledger only; ``save`` writes it to disk and announces it."""
        self._unobserved.begin(request.consumer)
        now_usec = self._state.clock.realtime_usec()
        ttl_sec = self._ttl_sec(request)
        reservation = self._state.consumer(request.consumer).spec.reservation
        lease = Lease(
            id=self._new_id() if reservation is None else reservation.lease_id,
            consumer=request.consumer,
            device=format_devices(devices),
            owner=request.owner,
            lifetime=request.options.lifetime,
            granted_usec=now_usec,
            expires_usec=now_usec + int(ttl_sec * 1e6) if ttl_sec else 0,
            ttl_sec=ttl_sec,
            reason=request.options.reason,
            token=request.options.token,
            uuids=self._state.ledger.uuids(devices),
            reservation=reservation,
            restore=request.options.restore,
            exclusive=request.options.exclusive,
            yields=request.options.yield_lease if request.options.yield_lease in self._state.ledger.leases else "",
        )
        self._granted_at[lease.id] = now = self._state.clock.monotonic()
        self._state.ledger.add_lease(lease, devices, now)
        self._schedule_expiry(lease, now, now_usec)
        return lease

    def _schedule_expiry(self, lease: Lease, now: float, now_usec: int) -> None:
        """Wake the expiry loop if this lease expires before its next check.

        Hardly any lease does, so leasing a resident consumer again and again does not wake the loop each time.
        """
        if lease.expires_usec and now + (lease.expires_usec - now_usec) / 1e6 < self.next_expiry_check:
            self.expiry_moved.set()

    def _ttl_sec(self, request: Request) -> float:
        if request.options.lifetime is not LeaseLifetime.TTL:
            return 0.0
        return request.options.ttl_sec or self._state.settings.scheduler.lease_ttl_sec

    async def save(self, lease: Lease) -> None:
        """Write a lease to disk, then announce it. The order matters: an announced lease must survive a crash.

        Raises:
            HostError (it cannot be written), NoSuchLease (it has ended meanwhile); then the lease is not active.
        """
        self.require_active(lease)
        try:
            await self._write(lease)
        except HostError:
            if lease.id in self._state.ledger.leases:
                self._delete_in_background(self._remove(lease.id, LeaseEnd.REVOKED))
            raise
        # Read it again: its device may have got another index, and its consumer may have been lost, during the write.
        lease = self._state.ledger.lease(lease.id)
        self._announced.add(lease.id)
        self._state.publish(LeaseGranted(lease))
        log_messages.grant(lease)
        if lease.degraded:
            self._state.publish(LeaseDegraded(lease))

    async def ensure_saved(self, lease: Lease) -> None:
        """Return when an active lease is certainly on disk. Raises HostError, NoSuchLease."""
        # The first write may still be running. The store performs writes in order, so this one ends after it.
        await self._write(lease)

    async def _write(self, lease: Lease) -> None:
        """Write a lease to disk. Raises HostError (it cannot be written), NoSuchLease (it has ended meanwhile)."""
        try:
            await self._store.put_lease(lease)
        except OSError as error:
            reason = error.strerror or error
            raise HostError(f"the lease cannot be saved: {reason}. Check gpumand's state directory") from error
        if lease.id not in self._state.ledger.leases:
            # It ended while it was being written, so its deletion may have reached the disk before this write.
            self._delete_in_background(lease)
        self.require_active(lease)

    def require_active(self, lease: Lease) -> None:
        """Check that a lease is still active before it is returned to a client. Raises NoSuchLease."""
        if lease.id not in self._state.ledger.leases:
            raise NoSuchLease(f"the lease on {lease.consumer} ended before it was granted; request it again")

    # -- giving back and restoring -------------------------------------------------------------------------------

    def granted_at(self, lease_id: str, otherwise: float) -> float:
        """When a lease was granted, in monotonic seconds; ``otherwise`` for one from before this daemon started."""
        return self._granted_at.get(lease_id, otherwise)

    def give_back(self, lease_id: str) -> None:
        """Give the consumer of a lease back for a while, in the ledger only; ``save_quietly`` writes it to disk."""
        lease = self._state.ledger.yield_lease(lease_id, self._state.clock.monotonic())
        log.info("lease %s on %s is given back for a nested lease", lease.id, lease.consumer)
        self._state.publish(LeaseYielded(lease))

    def return_yielded(self, lease_id: str, devices: Devices) -> Lease:
        """Undo ``give_back``, since the consumer is resident again on these devices."""
        lease = self._state.ledger.return_lease(lease_id, devices, self._state.clock.monotonic())
        log.info("lease %s on %s is restored after its nested lease", lease.id, lease.consumer)
        self._state.publish(LeaseReturned(lease))
        task = asyncio.get_running_loop().create_task(self.save_quietly(lease_id))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)
        return lease

    async def save_quietly(self, lease_id: str) -> None:
        """Write the present state of a lease to disk; an error is logged, and matters only after a restart."""
        lease = self._state.ledger.leases.get(lease_id)
        try:
            if lease is not None:
                await self._write(lease)
        except NoSuchLease:
            return
        except HostError as error:
            log.warning("lease %s: %s", lease_id, error)

    # -- changing and ending -------------------------------------------------------------------------------------

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        """Extend a ttl lease.

        Args:
            lease_id: the lease.
            ttl_sec: seconds from now; None = the ttl it was granted with.

        Raises:
            NoSuchLease, InvalidArgs (not a ttl lease), HostError (cannot be written).
        """
        old = self._state.ledger.lease(lease_id)
        if old.lifetime is not LeaseLifetime.TTL:
            raise InvalidArgs(f"a lease with lifetime '{old.lifetime}' has no ttl; it needs no renewal")
        now, now_usec = self._state.clock.monotonic(), self._state.clock.realtime_usec()
        expires_usec = now_usec + int((ttl_sec or old.ttl_sec) * 1e6)
        lease = replace(old, expires_usec=expires_usec)
        await self._write(lease)
        # Read it again: its device may have got another index during the write.
        lease = replace(self._state.ledger.lease(lease_id), expires_usec=expires_usec)
        self._state.ledger.renew_lease(lease)
        self._schedule_expiry(lease, now, now_usec)
        self._state.publish(LeaseRenewed(lease))
        return lease

    def end(self, lease_id: str, reason: LeaseEnd) -> Coroutine[Any, Any, None]:
        """End a lease at once. Await the returned coroutine to delete it from disk too. Raises NoSuchLease."""
        return self._delete(self._remove(lease_id, reason))

    def _remove(self, lease_id: str, reason: LeaseEnd) -> Lease:
        """End a lease in the ledger; the caller deletes it from disk.

        A lease that was never announced ends without an announcement.
        """
        now, now_usec = self._state.clock.monotonic(), self._state.clock.realtime_usec()
        lease = self._state.ledger.remove_lease(lease_id, now, now_usec)
        granted_at = self._granted_at.pop(lease_id, None)
        end = LeaseEnded(lease, reason, None if granted_at is None else now - granted_at)
        duration_sec = end.duration_sec(now_usec)
        self._state.overtakings.end(lease_id, duration_sec)
        self._state.overlapping.lease_ended(
            lease_id, duration_sec, self._state.consumer(lease.consumer).times.hold.mean_sec
        )
        self._used_consumers.add(lease.consumer)
        self.shared.discard(lease_id)
        self.on_end(lease)
        if not self._unobserved.leaves_nothing_to_reconcile(lease.consumer):
            self._reconciler.reconcile(lease.consumer)
        self._state.ledger.prune(self._state.settings.consumers)
        if lease_id in self._announced:
            self._announced.discard(lease_id)
            self._state.publish(end)
        write = log.debug if reason is LeaseEnd.RELEASED else log.info
        write("lease %s on %s ended: %s", lease.id, lease.consumer, reason)
        return lease

    def _delete_in_background(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._delete(lease))
        self._deleting.add(task)
        task.add_done_callback(self._deleting.discard)

    async def _delete(self, lease: Lease) -> None:
        try:
            await self._store.drop_lease(lease.id)
        except OSError as error:
            # It has ended in the ledger. At worst the next start restores it from disk and it expires then.
            log.error("lease %s has ended but cannot be deleted from disk: %s", lease.id, error)

    async def save_last_uses(self) -> None:
        """Write the last use of each consumer used since the last call.

        This is not done with every lease, since the last use only decides the order of victims.
        """
        for name in tuple(self._used_consumers):
            try:
                async with self._consumer_write_lock:
                    # Discarded before the write: a use during the write counts for the next call.
                    self._used_consumers.discard(name)
                    await self._save_last_use(name)
            except OSError as error:
                log.warning("the last use of %s cannot be saved: %s", name, error)

    async def _save_last_use(self, name: str) -> None:
        consumer = self._state.ledger.consumers.get(name)
        if consumer is not None:
            await self._put_consumer(consumer)

    async def pin(self, name: str, *, pinned: bool) -> None:
        """Pin or unpin a consumer; takes effect when it is on disk. Raises NoSuchConsumer, HostError."""
        # A pin and a last use are one record. Without the lock, a last use written at the same time could overwrite
        # the new pin with the former one.
        async with self._consumer_write_lock:
            try:
                await self._put_consumer(replace(self._state.consumer(name), pinned=pinned))
            except OSError as error:
                reason = error.strerror or error
                raise HostError(f"the pin cannot be saved: {reason}. Check gpumand's state directory") from error
            # A reload may have removed the consumer during the write.
            if name in self._state.ledger.consumers:
                self._state.ledger.update(name, pinned=pinned)

    async def _put_consumer(self, consumer: ConsumerState) -> None:
        pinned = consumer.pinned if consumer.pinned != consumer.spec.pinned else None
        await self._store.put_consumer(consumer.name, pinned, consumer.lease_ended_usec)

    def end_all(self, matches: Callable[[Lease], bool], reason: LeaseEnd) -> int:
        """End every lease for which ``matches`` is true; returns their number."""
        ended = [lease.id for lease in list(self._state.ledger.leases.values()) if matches(lease)]
        for lease_id in ended:
            self._delete_in_background(self._remove(lease_id, reason))
        return len(ended)

    def end_for_owner(self, bus_name: str) -> int:
        """End the connection leases of a client that left the bus; returns their number."""
        return self.end_all(
            lambda lease: lease.lifetime is LeaseLifetime.CONNECTION and lease.owner.bus_name == bus_name,
            LeaseEnd.OWNER_VANISHED,
        )

    def end_for_unit(self, unit: UnitState) -> int:
        """End the leases bound to a run of this unit that is over; returns their number."""
        return self.end_all(
            lambda lease: (
                lease.lifetime is LeaseLifetime.UNIT and lease.owner.unit == unit.unit and is_unit_run_over(lease, unit)
            ),
            LeaseEnd.UNIT_STOPPED,
        )

    def expire(self) -> int:
        """End all leases whose ttl has passed; returns their number."""
        now_usec = self._state.clock.realtime_usec()
        return self.end_all(lambda lease: 0 < lease.expires_usec <= now_usec, LeaseEnd.EXPIRED)

    def next_expiry_usec(self) -> int:
        """When the next lease expires, CLOCK_REALTIME in microseconds; 0 = no lease has a ttl."""
        return min((one.expires_usec for one in self._state.ledger.leases.values() if one.expires_usec), default=0)

    def leased_units(self) -> set[str]:
        """Units that active leases are bound to."""
        leases = self._state.ledger.leases.values()
        return {lease.owner.unit for lease in leases if lease.lifetime is LeaseLifetime.UNIT}

    async def name_owner(self, lease: Lease, owners: OwnerPresence) -> bool:
        """Find the names of a lease's owner that are unknown so far; returns whether there are new ones.

        Names are not stored, so a restored lease has none.
        """
        named = await owners.named(lease.owner, lease.granted_usec)
        is_new = (named.user, named.program) != (lease.owner.user, lease.owner.program)
        if is_new:
            self._state.ledger.name_owner(lease.id, named.user, named.program)
        return is_new

    # -- restarts of the daemon ----------------------------------------------------------------------------------

    async def restore(self, owners: OwnerPresence, units: UnitManager) -> None:
        """Restore pins, last uses and every lease whose owner still exists; delete the other leases."""
        consumers = await self._store.read_consumers()
        for name, (pinned, lease_ended_usec) in consumers.items():
            if name in self._state.ledger.consumers:
                spec = self._state.consumer(name).spec
                self._state.ledger.update(
                    name, pinned=spec.pinned if pinned is None else pinned, lease_ended_usec=lease_ended_usec
                )
        for lease in await self._store.read_leases():
            why_not = await self._why_not_restored(lease, owners, units)
            if why_not:
                log.info("lease %s on %s is not restored: %s", lease.id, lease.consumer, why_not)
                await self._delete(lease)
            else:
                devices = parse_devices(lease.device) or (0,)
                if lease.reservation is not None:
                    self._state.ledger.add_reservation(reservation_spec(lease.reservation, len(devices)))
                self._state.ledger.add_lease(lease, devices, self._state.clock.monotonic())
                self._state.ledger.drop_reservation(lease.consumer, self._state.settings.consumers)
                self._announced.add(lease.id)
        self.expiry_moved.set()

    async def _why_not_restored(self, lease: Lease, owners: OwnerPresence, units: UnitManager) -> str:
        if lease.reservation is None and lease.consumer not in self._state.ledger.consumers:
            return "its consumer is no longer configured"
        if 0 < lease.expires_usec <= self._state.clock.realtime_usec():
            return "it has expired"
        if lease.lifetime is LeaseLifetime.CONNECTION and not await owners.watch(lease.owner.bus_name):
            return "its owner left the bus"
        if lease.lifetime is LeaseLifetime.UNIT:
            try:
                return "its unit's run is over" if is_unit_run_over(lease, await units.state(lease.owner.unit)) else ""
            except UnitFailed:
                return ""  # systemd cannot be asked, which does not prove that the unit has ended
        return ""

    async def flush(self) -> None:
        """Wait until all deletions and last uses are on disk."""
        # A copy: tasks remove themselves from the set when they are done.
        if self._deleting:
            await asyncio.wait(set(self._deleting))
        await self.save_last_uses()


def is_unit_run_over(lease: Lease, unit: UnitState) -> bool:
    """Whether the unit run that a lease is bound to has ended. A restarted unit has another invocation id."""
    if unit.activity in (UnitActivity.INACTIVE, UnitActivity.FAILED):
        return True
    return bool(unit.invocation_id and lease.owner.invocation_id and unit.invocation_id != lease.owner.invocation_id)
