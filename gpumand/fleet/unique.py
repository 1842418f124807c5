"""Consumers with ``fleet = "unique"``: resident on at most one host of the fleet, for a licence or a shared disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gpumand.fleet.clock import Clock
from gpumand.fleet.fence import WATCH_SEC, Fence
from gpumand.fleet.keys import Keys, last_part
from gpumand.fleet.store import Claim, FleetStore, Listing, MembershipLost, StoreError, StoreUnavailable

TIDY_SEC = 10.0
"""Period at which stray claims are given up."""

Fenced = Callable[[frozenset[str]], Awaitable[None]]
"""Called with the names of the consumers that this host may no longer serve; must not raise."""


class UniqueConsumers:
    """The unique consumers that this host holds: claimed in the store, and guarded by the fence.

    Args:
        store: the store.
        keys: the keys of the fleet.
        machine_id: machine id of this host.
        fence: the fence of this host's membership.
        clock: source of time.
        fenced: called when the fence has fallen, or another lease has replaced the one that held the claims.
    """

    def __init__(
        self, store: FleetStore, keys: Keys, machine_id: str, fence: Fence, clock: Clock, fenced: Fenced
    ) -> None:
        self._store = store
        self._keys = keys
        self._machine_id = machine_id
        self._fence = fence
        self._clock = clock
        self._fenced = fenced
        self._held: dict[str, int] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._ending: frozenset[str] = frozenset()

    def holds(self, consumer: str) -> bool:
        """Whether this host may serve a consumer now. Ask right before each step, without an await in between."""
        return self._fence.is_standing and self._held.get(consumer) == self._fence.generation

    async def claim(self, consumer: str) -> str:
        """Become the host of a consumer; return "" if this host holds it now, else the machine id of its host.

        Raises StoreUnavailable, UnknownOutcome, Denied, and MembershipLost where the fence is down.
        """
        async with self._turn(consumer):
            if self.holds(consumer):
                return ""
            if consumer in self._ending:
                raise StoreUnavailable(f"{consumer} is being ended here, because this host was cut off. Try again")
            generation = self._standing()
            found = await self._store.claim(self._keys.unique(consumer), self._machine_id)
            return self._claimed(consumer, generation, found)

    def _claimed(self, consumer: str, generation: int, found: Claim) -> str:
        if not found.ok:
            return found.value[:64]
        if generation != self._standing():
            # The lease was replaced meanwhile. Which of both holds the key is not known, so it does not count.
            raise StoreUnavailable(f"the lease of this host was replaced while it claimed {consumer}. Try again")
        self._held[consumer] = generation
        return ""

    async def release(self, consumer: str) -> None:
        """Give a consumer up, after it was unloaded here. Raises StoreError; it is not held in any case."""
        async with self._turn(consumer):
            self._held.pop(consumer, None)
            await self._store.release(self._keys.unique(consumer), self._machine_id)

    async def run(self) -> None:
        """Report consumers that are no longer held, and give up stray claims, until cancelled."""
        await asyncio.gather(self._watch_fence(), self._tidy_forever())

    async def _watch_fence(self) -> None:
        while True:
            lost = frozenset(one for one in self._held if not self.holds(one))
            if lost:
                self._ending = lost
                for consumer in lost:
                    del self._held[consumer]
                await self._fenced(lost)
                self._ending = frozenset()
            await self._clock.sleep(WATCH_SEC)

    async def _tidy_forever(self) -> None:
        while True:
            await self._clock.sleep(TIDY_SEC)
            with suppress(StoreError):
                await self._tidy()

    async def _tidy(self) -> None:
        """Release claims of this host that it does not know of: their answers were lost, or they came late."""
        found = await self._store.list(self._keys.uniques) if self._turns else Listing((), 0)
        for entry in found.entries:
            consumer = last_part(entry.key, self._keys.uniques)
            if entry.value == self._machine_id and self._is_stray(consumer):
                await self.release(consumer)

    def _is_stray(self, consumer: str) -> bool:
        if not self._fence.is_standing or consumer in self._ending or self._turn(consumer).locked():
            return False
        return not self.holds(consumer)

    def _standing(self) -> int:
        if not self._fence.is_standing:
            raise MembershipLost("this host is not sure of its lease in the store")
        return self._fence.generation

    def _turn(self, consumer: str) -> asyncio.Lock:
        """Claims and releases of a consumer happen one after the other: a late release must not undo a claim."""
        return self._turns.setdefault(consumer, asyncio.Lock())
