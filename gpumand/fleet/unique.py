"""Consumers with ``fleet = "unique"``: resident on at most one host of the fleet, for a licence or a shared disk."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gpumand.fleet.clock import Clock
from gpumand.fleet.fence import WATCH_SEC, Fence
from gpumand.fleet.keys import Keys
from gpumand.fleet.store import Claim, FleetStore, MembershipLost, StoreUnavailable

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
        """Call ``fenced`` for consumers that are no longer held, soon after it happened, until cancelled."""
        while True:
            lost = frozenset(one for one in self._held if not self.holds(one))
            for consumer in lost:
                del self._held[consumer]
            if lost:
                await self._fenced(lost)
            await self._clock.sleep(WATCH_SEC)

    def _standing(self) -> int:
        if not self._fence.is_standing:
            raise MembershipLost("this host is not sure of its lease in the store")
        return self._fence.generation

    def _turn(self, consumer: str) -> asyncio.Lock:
        """Claims and releases of a consumer happen one after the other: a late release must not undo a claim."""
        return self._turns.setdefault(consumer, asyncio.Lock())
