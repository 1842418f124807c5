"""Leases: given, kept over our own death, and ended by whatever may end them."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from gpumand.arbiter import log_messages
from gpumand.arbiter.reconciler import Reconciler
from gpumand.arbiter.state import ArbiterState
from gpumand.domain.consumer import UnitActivity, UnitState
from gpumand.domain.device import Devices, devices_of, devices_text
from gpumand.domain.errors import HostError, InvalidArgs, NoSuchLease
from gpumand.domain.events import LeaseEnded, LeaseGranted, LeaseRenewed
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime
from gpumand.domain.request import Request
from gpumand.domain.view import ConsumerState
from gpumand.ports import Owners, Store, UnitFailed, UnitManager

log = logging.getLogger(__name__)


def new_lease_id() -> str:
    """An id that nobody guesses, short enough to be typed: 16 hex digits would do, 20 are kind to birthdays."""
    return secrets.token_hex(10)


class Leases:
    """Keeps the ledger's leases and the store in step.

    Attributes:
        sooner: set where what has run out must be looked for sooner than at ``looked_at``.
        looked_at: when whoever does that looks next, in monotonic seconds.
        shared: those that were given out to a second call with the same token.
    """

    def __init__(
        self, arbiter_state: ArbiterState, facts: Reconciler, store: Store, new_id: Callable[[], str] = new_lease_id
    ) -> None:
        self._books = arbiter_state
        self._facts = facts
        self._store = store
        self._new_id = new_id
        self._dropping: set[asyncio.Task[None]] = set()
        self._used: set[str] = set()
        self._writing_consumer = asyncio.Lock()
        self._told: set[str] = set()
        self._granted_at: dict[str, float] = {}
        self.shared: set[str] = set()
        self.sooner = asyncio.Event()
        self.looked_at = float("-inf")

    # -- giving --------------------------------------------------------------------------------------------------

    def create(self, request: Request, devices: Devices) -> Lease:
        """Let a lease stand for a request, in the books only: nobody is told before it is kept."""
        now_usec = self._books.clock.realtime_usec()
        ttl_sec = self._ttl_sec(request)
        lease = Lease(
            id=self._new_id(),
            consumer=request.consumer,
            device=devices_text(devices),
            owner=request.owner,
            lifetime=request.options.lifetime,
            granted_usec=now_usec,
            expires_usec=now_usec + int(ttl_sec * 1e6) if ttl_sec else 0,
            ttl_sec=ttl_sec,
            reason=request.options.reason,
            token=request.options.token,
            uuids=self._books.ledger.uuids(devices),
        )
        self._granted_at[lease.id] = self._books.clock.monotonic()
        self._books.ledger.add_lease(lease, devices, self._granted_at[lease.id])
        self._expires(lease)
        return lease

    def _expires(self, lease: Lease) -> None:
        """Have whoever waits for the next expiry look again, where this lease runs out before it would.

        Nearly none does: a resident consumer that is leased again and again wakes nobody.
        """
        left_sec = (lease.expires_usec - self._books.clock.realtime_usec()) / 1e6
        if lease.expires_usec and self._books.clock.monotonic() + left_sec < self.looked_at:
            self.sooner.set()

    def _ttl_sec(self, request: Request) -> float:
        if request.options.lifetime is not LeaseLifetime.TTL:
            return 0.0
        return request.options.ttl_sec or self._books.settings.scheduler.lease_ttl_sec

    async def keep(self, lease: Lease) -> None:
        """Write a lease down, then tell the world.

        Raises HostError when it cannot be kept, NoSuchLease when it has ended meanwhile; then it does not stand.
        """
        self.require(lease)
        try:
            await self._write(lease)
        except HostError:
            if lease.id in self._books.ledger.leases:
                self._forget_soon(self._remove(lease.id, LeaseEnd.REVOKED))
            raise
        self._told.add(lease.id)
        self._books.publish(LeaseGranted(lease))
        log_messages.grant(lease)

    async def kept(self, lease: Lease) -> None:
        """Return when a lease that stands already is kept for sure. Raises HostError, NoSuchLease."""
        await self._write(lease)  # in order behind the first time, which may still be under way

    async def _write(self, lease: Lease) -> None:
        """Have a lease on disk. Raises HostError when it cannot be kept, NoSuchLease when it has ended meanwhile."""
        try:
            await self._store.put_lease(lease)
        except OSError as error:
            raise HostError(f"the lease cannot be kept: {error.strerror or error}") from error
        if lease.id not in self._books.ledger.leases:
            self._forget_soon(lease)  # it ended while it was written, and its end was on disk before its beginning
        self.require(lease)

    def require(self, lease: Lease) -> None:
        """Raises NoSuchLease when a lease that is about to be handed out has ended."""
        if lease.id not in self._books.ledger.leases:
            raise NoSuchLease(f"the lease on {lease.consumer} ended before it was handed out")

    # -- changing and ending -------------------------------------------------------------------------------------

    async def renew(self, lease_id: str, ttl_sec: float | None) -> Lease:
        """Give a ttl lease more time, counted from now. Raises NoSuchLease, InvalidArgs, HostError."""
        old = self._books.ledger.lease(lease_id)
        if old.lifetime is not LeaseLifetime.TTL:
            raise InvalidArgs(f"a lease of lifetime {old.lifetime} has no ttl to renew")
        expires_usec = self._books.clock.realtime_usec() + int((ttl_sec or old.ttl_sec) * 1e6)
        lease = replace(old, expires_usec=expires_usec)
        await self._write(lease)
        lease = replace(self._books.ledger.lease(lease_id), expires_usec=expires_usec)  # its device may have moved
        self._books.ledger.renew_lease(lease)
        self._expires(lease)
        self._books.publish(LeaseRenewed(lease))
        return lease

    def begin_end(self, lease_id: str, reason: LeaseEnd) -> Coroutine[Any, Any, None]:
        """End a lease at once; await what is returned to have it forgotten on disk too. Raises NoSuchLease."""
        return self._forget(self._remove(lease_id, reason))

    def _remove(self, lease_id: str, reason: LeaseEnd) -> Lease:
        """End it in the books; the caller sees to the disk. One that nobody was told of ends without a word."""
        now, now_usec = self._books.clock.monotonic(), self._books.clock.realtime_usec()
        lease = self._books.ledger.remove_lease(lease_id, now, now_usec)
        granted_at = self._granted_at.pop(lease_id, None)
        end = LeaseEnded(lease, reason, None if granted_at is None else now - granted_at)
        stood_sec = end.stood_sec(now_usec)
        self._books.overtakings.end(lease_id, stood_sec)
        self._books.overlapping.ended(lease_id, stood_sec, self._books.state(lease.consumer).times.hold.mean_sec)
        self._used.add(lease.consumer)
        self.shared.discard(lease_id)
        self._facts.conclude(lease.consumer)
        self._books.ledger.prune(self._books.settings.consumers)
        self._books.tell()
        if lease_id in self._told:
            self._told.discard(lease_id)
            self._books.publish(end)
        level = logging.DEBUG if reason is LeaseEnd.RELEASED else logging.INFO
        log.log(level, "lease %s on %s ended: %s", lease.id, lease.consumer, reason)
        return lease

    def _forget_soon(self, lease: Lease) -> None:
        task = asyncio.get_running_loop().create_task(self._forget(lease))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _forget(self, lease: Lease) -> None:
        try:
            await self._store.drop_lease(lease.id)
        except OSError as error:
            # It is gone from the books; at worst the next start finds it on disk and lets it expire.
            log.error("lease %s cannot be forgotten on disk: %s", lease.id, error)

    async def keep_uses(self) -> None:
        """Write down who was used since the last time. Not with every lease: it only orders victims."""
        for name in tuple(self._used):
            try:
                async with self._writing_consumer:
                    self._used.discard(name)
                    await self._keep_use(name)
            except OSError as error:
                log.warning("the last use of %s cannot be kept: %s", name, error)

    async def _keep_use(self, name: str) -> None:
        state = self._books.ledger.consumers.get(name)
        if state is not None:
            await self._put(state)

    async def pin(self, name: str, *, pinned: bool) -> None:
        """Pin or unpin a consumer when that is written down. Raises NoSuchConsumer, HostError."""
        # One at a time: a last use that is written meanwhile would put the former pin over this one.
        async with self._writing_consumer:
            try:
                await self._put(replace(self._books.state(name), pinned=pinned))
            except OSError as error:
                raise HostError(f"the pin cannot be kept: {error.strerror or error}") from error
            if name in self._books.ledger.consumers:
                self._books.ledger.update(name, pinned=pinned)

    async def _put(self, state: ConsumerState) -> None:
        pinned = state.pinned if state.pinned != state.spec.pinned else None
        await self._store.put_consumer(state.name, pinned, state.worked_usec)

    def end_all(self, which: Callable[[Lease], bool], reason: LeaseEnd) -> int:
        """End every lease that ``which`` picks; returns how many."""
        ended = [lease.id for lease in list(self._books.ledger.leases.values()) if which(lease)]
        for lease_id in ended:
            self._forget_soon(self._remove(lease_id, reason))
        return len(ended)

    def end_of_owner(self, bus_name: str) -> int:
        """The owner left the bus."""
        return self.end_all(
            lambda lease: lease.lifetime is LeaseLifetime.CONNECTION and lease.owner.bus_name == bus_name,
            LeaseEnd.OWNER_VANISHED,
        )

    def end_of_unit(self, unit: UnitState) -> int:
        """A unit changed; leases of a run of it that is over end."""
        return self.end_all(
            lambda lease: (
                lease.lifetime is LeaseLifetime.UNIT and lease.owner.unit == unit.unit and is_over(lease, unit)
            ),
            LeaseEnd.UNIT_STOPPED,
        )

    def expire(self) -> int:
        """End what has run out."""
        now_usec = self._books.clock.realtime_usec()
        return self.end_all(lambda lease: 0 < lease.expires_usec <= now_usec, LeaseEnd.EXPIRED)

    def next_expiry_usec(self) -> int:
        """When the next lease runs out, CLOCK_REALTIME; 0 = none does."""
        return min((one.expires_usec for one in self._books.ledger.leases.values() if one.expires_usec), default=0)

    def leased_units(self) -> set[str]:
        """Units whose end ends a lease."""
        leases = self._books.ledger.leases.values()
        return {lease.owner.unit for lease in leases if lease.lifetime is LeaseLifetime.UNIT}

    # -- over our own death --------------------------------------------------------------------------------------

    async def restore(self, owners: Owners, units: UnitManager) -> None:
        """Take up again every lease whose owner lives; the others are forgotten."""
        consumers = await self._store.read_consumers()
        for name, (pinned, worked_usec) in consumers.items():
            if name in self._books.ledger.consumers:
                spec = self._books.state(name).spec
                self._books.ledger.update(
                    name, pinned=spec.pinned if pinned is None else pinned, worked_usec=worked_usec
                )
        for lease in await self._store.read_leases():
            why_not = await self._why_over(lease, owners, units)
            if why_not:
                log.info("lease %s on %s is not taken up again: %s", lease.id, lease.consumer, why_not)
                await self._store.drop_lease(lease.id)
            else:
                devices = devices_of(lease.device) or (0,)
                self._books.ledger.add_lease(lease, devices, self._books.clock.monotonic())
                self._told.add(lease.id)
        self.sooner.set()

    async def _why_over(self, lease: Lease, owners: Owners, units: UnitManager) -> str:
        if lease.consumer not in self._books.ledger.consumers:
            return "its consumer is no longer configured"
        if 0 < lease.expires_usec <= self._books.clock.realtime_usec():
            return "it ran out"
        if lease.lifetime is LeaseLifetime.CONNECTION and not await owners.watch(lease.owner.bus_name):
            return "its owner left the bus"
        if lease.lifetime is LeaseLifetime.UNIT:
            try:
                return "its unit's run is over" if is_over(lease, await units.state(lease.owner.unit)) else ""
            except UnitFailed:
                return ""  # not being able to ask is no proof
        return ""

    async def settle(self) -> None:
        """Wait until everything is on disk."""
        if self._dropping:
            await asyncio.wait(set(self._dropping))
        await self.keep_uses()


def is_over(lease: Lease, unit: UnitState) -> bool:
    """Whether the run of the unit to which a lease is bound has ended."""
    if unit.activity in (UnitActivity.INACTIVE, UnitActivity.FAILED):
        return True
    return bool(unit.invocation_id and lease.owner.invocation_id and unit.invocation_id != lease.owner.invocation_id)
