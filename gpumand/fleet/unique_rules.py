"""Applies ``fleet = "unique"`` on this host: claims before a lease, and gives up what it can no longer hold."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from gpumand.domain.errors import Busy, NotNowError
from gpumand.domain.residency_states import Residency
from gpumand.fleet.background import BackgroundTasks
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.rows import ConsumerRow, HostRow
from gpumand.fleet.store import StoreError

log = logging.getLogger(__name__)

FENCED = "fenced"
"""Why a lease on a unique consumer ended when this host could no longer be sure to be its only host."""

RELEASE_SEC = 5.0
"""How long the leases of a fenced consumer may take to end before it is unloaded."""

END_TRIES = 4
END_PAUSE_SEC = 0.5

PROMISE_SEC = 15.0
"""How long a claim is kept for a client that acquires from gpumand itself, until a row shows its request."""

HERE = (Residency.RESIDENT, Residency.LOADING)
GONE = (Residency.UNLOADED, Residency.PARKED, Residency.FAILED)


class UniqueClaims(Protocol):
    """The unique consumers that this host holds; see ``unique.UniqueConsumers``."""

    def holds(self, consumer: str) -> bool:
        """Whether this host may serve a consumer now."""

    async def claim(self, consumer: str) -> str:
        """Become its host: "" if this host is it now, else the machine id of its host. Raises StoreError."""

    async def release(self, consumer: str) -> None:
        """Give it up. Raises StoreError."""


class UniqueRules:
    """The rules for unique consumers. Create it inside a running event loop.

    Args:
        row: the newest row of this host.
        name_of: name of a host for its machine id.
        unload: unloads a consumer as far as this process may, and returns whether it is unloaded; must not raise, and
            returns within a limited time.
    """

    def __init__(
        self,
        row: Callable[[], HostRow],
        name_of: Callable[[str], str],
        unload: Callable[[str], Awaitable[bool]],
    ) -> None:
        self.claims: UniqueClaims | None = None
        self._row, self._name_of, self._unload = row, name_of, unload
        self._names: frozenset[str] = frozenset()
        self._leases: dict[str, set[GuardedLease]] = {}
        self._claimed: set[str] = set()
        self._claiming: set[str] = set()
        self._overdue: set[str] = set()
        self._reported: dict[str, str] = {}
        self._promised: dict[str, float] = {}
        self._pending: Counter[str] = Counter()
        self._background = BackgroundTasks()

    def is_unique(self, consumer: str) -> bool:
        """Whether a consumer of this host may be loaded on one host only."""
        found = self._row().consumers.get(consumer)
        if found is None and self._row().is_away:
            return consumer in self._names  # a restart of gpumand does not change that
        return found is not None and found.unique

    async def require(self, consumer: str) -> None:
        """Become the host of a unique consumer; nothing for others. Raises Busy, NotNowError."""
        if not self.is_unique(consumer):
            return
        if self.claims is None:
            raise NotNowError(
                f"{consumer} may be loaded on one host only, which needs etcd: this fleet has static peers. "
                'Set up etcd, or remove fleet = "unique".'
            )
        try:
            holder = await self.claims.claim(consumer)
        except StoreError as error:
            raise NotNowError(
                f"{consumer} may be loaded on one host only, and the store cannot decide now: {error}. Try again later."
            ) from None
        if holder:
            raise Busy(f"{consumer} may be loaded on one host only, and {self._name_of(holder)} has it. Ask there.")
        self._claimed.add(consumer)

    async def promise(self, consumer: str) -> None:
        """Become the host of a unique consumer, for a client that is going to acquire it from gpumand itself.

        Raises Busy, NotNowError.
        """
        if consumer not in self._row().consumers:
            raise NotNowError(f"gpumand of this host has not reported {consumer} yet. Try again later.")
        with self.pending(consumer):
            await self.require(consumer)
            if self.is_unique(consumer):
                self._promised[consumer] = _now() + PROMISE_SEC

    @contextmanager
    def pending(self, consumer: str) -> Iterator[None]:
        """Keep the claim of a consumer while a request for it is on its way: no row shows the request yet."""
        self._pending[consumer] += 1
        try:
            yield
        finally:
            self._pending[consumer] -= 1
            if not self._pending[consumer]:
                del self._pending[consumer]

    def check_loaded(self, consumer: str) -> None:
        """Unload a unique consumer that was loaded while this host lost it. Raises NotNowError then."""
        if self._is_lost(consumer):
            self._background.spawn(self._end_lost(consumer))
            raise NotNowError(
                f"{consumer} was loaded while this host was cut off from the store, so it is unloaded. Try again later."
            )

    def guard(self, consumer: str, lease: LeaseHandle) -> LeaseHandle:
        """The lease, which ends when this host may no longer serve its unique consumer; others are not changed."""
        if not self.is_unique(consumer) or self.claims is None:
            return lease
        guarded = GuardedLease(lease, lambda: self._leases.get(consumer, set()).discard(guarded))
        self._leases.setdefault(consumer, set()).add(guarded)
        if not self.claims.holds(consumer):  # lost while gpumand granted the lease, perhaps after a load
            guarded.end()
            self._background.spawn(self._end_lost(consumer))
        return guarded

    async def fenced(self, consumers: frozenset[str]) -> None:
        """This host is no longer sure to be the only one of these consumers: end their leases, then unload them."""
        await asyncio.gather(*map(self._end, consumers))

    @property
    def held(self) -> list[str]:
        """The consumers that this host holds now."""
        claims = self.claims
        # While gpumand restarts, the row has no consumers, and those of before may be loaded all the same.
        known = {*self._row().consumers, *self._names}
        return [] if claims is None else sorted(one for one in known if claims.holds(one))

    async def end_all(self) -> bool:
        """Unload what this host holds, at the end of the process; return whether nothing is left loaded.

        Afterwards no process keeps other hosts from loading it. Leases of the fleet have ended by then.
        """
        return all(await asyncio.gather(*map(self._unloaded, self.held)))

    async def _unloaded(self, consumer: str) -> bool:
        for _ in range(END_TRIES):  # gpumand notices a moment later that the leases of the fleet have ended
            if await self._unload(consumer):
                return True
            await asyncio.sleep(END_PAUSE_SEC)
        return False

    def _is_lost(self, consumer: str) -> bool:
        return self.is_unique(consumer) and self.claims is not None and not self.claims.holds(consumer)

    async def _end_lost(self, consumer: str) -> None:
        """End a consumer that this host does not hold, unless it was claimed again meanwhile."""
        if self._is_lost(consumer):
            await self._end(consumer)

    async def _end(self, consumer: str) -> None:
        log.warning("%s: this host can no longer be sure to be its only host; its leases of the fleet end", consumer)
        leases = tuple(self._leases.get(consumer, ()))
        for lease in leases:
            lease.end()
        if leases:
            await asyncio.wait([asyncio.ensure_future(one.released.wait()) for one in leases], timeout=RELEASE_SEC)
        self._claimed.discard(consumer)
        self._promised.pop(consumer, None)
        self._overdue.add(consumer)
        await self._unload(consumer)

    def note_row(self, row: HostRow) -> None:
        """Claim what is loaded here without the fleet, and give up what is not loaded any more."""
        if not row.is_away:
            self._names = frozenset(name for name, one in row.consumers.items() if one.unique)
        if self.claims is None:
            return
        for name, consumer in row.consumers.items():
            if consumer.unique:
                self._follow(name, consumer, self.claims)
        if not row.is_away:
            # A changed configuration of gpumand has taken these, or their rule, from this host.
            for name in self._claimed - self._names:
                self._claimed.discard(name)
                self._background.spawn(self._give_up(name, self.claims))

    def _follow(self, name: str, consumer: ConsumerRow, claims: UniqueClaims) -> None:
        if claims.holds(name) or consumer.residency in GONE:
            self._overdue.discard(name)
            self._reported.pop(name, None)
        if consumer.residency in HERE and not claims.holds(name):
            if name not in self._claiming:
                self._claiming.add(name)
                self._background.spawn(self._claim_loaded(name))
        elif consumer.residency in GONE and not self._is_used(name, consumer) and name in self._claimed:
            self._claimed.discard(name)
            self._background.spawn(self._give_up(name, claims))

    def _is_used(self, name: str, consumer: ConsumerRow | None) -> bool:
        is_used_by_others = consumer is not None and (consumer.leases or consumer.queue)
        is_promised = self._promised.get(name, 0.0) > _now()
        return bool(is_used_by_others or self._leases.get(name) or self._pending[name] or is_promised)

    def _is_idle(self, name: str) -> bool:
        """Whether nothing uses a consumer, by the newest row."""
        return not self._is_used(name, self._row().consumers.get(name))

    async def _claim_loaded(self, name: str) -> None:
        try:
            await self.require(name)
        except NotNowError as error:
            if self._reported.get(name) != error.message:
                log.warning("%s is loaded here without the fleet: %s", name, error.message)
                self._reported[name] = error.message
            # Another host has it for certain, or this host had lost it. Otherwise nothing is unloaded while the store
            # cannot decide.
            if (isinstance(error, Busy) or name in self._overdue) and self._is_idle(name) and self._is_resident(name):
                await self._unload(name)
        finally:
            self._claiming.discard(name)

    def _is_resident(self, name: str) -> bool:
        found = self._row().consumers.get(name)
        return found is not None and found.residency is Residency.RESIDENT

    async def _give_up(self, name: str, claims: UniqueClaims) -> None:
        if not self._is_idle(name):  # a request has come since
            self._claimed.add(name)
            return
        try:
            await claims.release(name)
        except StoreError as error:
            log.debug("%s is given up when this host's lease ends: %s", name, error)


def _now() -> float:
    return asyncio.get_running_loop().time()


class GuardedLease:
    """A lease that can be ended from here.

    Args:
        lease: the lease.
        forget: called when it was released.

    Attributes:
        released: set when it was released.
    """

    def __init__(self, lease: LeaseHandle, forget: Callable[[], None]) -> None:
        self.released = asyncio.Event()
        self._lease, self._forget = lease, forget
        self._ended = asyncio.Event()

    @property
    def grant(self) -> Mapping[str, object]:
        """See LeaseHandle."""
        return self._lease.grant

    def end(self) -> None:
        """End the lease: its client is notified, and it is released."""
        self._ended.set()

    async def wait_ended(self) -> str:
        """See LeaseHandle; "fenced" when this host may no longer serve the consumer."""
        fenced = asyncio.ensure_future(self._ended.wait())
        lost = asyncio.ensure_future(self._lease.wait_ended())
        try:
            await asyncio.wait({fenced, lost}, return_when=asyncio.FIRST_COMPLETED)
            return lost.result() if lost.done() else FENCED
        finally:
            fenced.cancel()
            lost.cancel()

    async def release(self) -> None:
        """See LeaseHandle."""
        try:
            await self._lease.release()
        finally:
            self._forget()
            self.released.set()
