"""Consumers with ``fleet = "unique"``: resident on at most one host of the fleet, for a licence or a shared disk."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gpumand.fleet.clock import Clock
from gpumand.fleet.fence import Fence
from gpumand.fleet.json_fields import InvalidJson
from gpumand.fleet.keys import Keys, last_part
from gpumand.fleet.row_json import encode_holder, parse_holder
from gpumand.fleet.rows import Holder
from gpumand.fleet.store import FleetStore, Listing, MembershipLost, StoreError, StoreUnavailable

TIDY_SEC = 10.0
"""Period at which stray claims are given up."""

WATCH_SEC = 0.2
"""Period at which the fence is checked. A fall during a suspend is noticed this soon after the resume."""

Fenced = Callable[[frozenset[str]], Awaitable[None]]
"""Called with the names of the consumers that this host may no longer serve; must not raise."""


class UniqueConsumers:
    """The unique consumers that this host holds: claimed in the store, and guarded by the fence.

    Every claim has a value of its own, and a release removes that value only. A release that etcd carries out late,
    after its answer was given up, can therefore not undo the next claim.

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
        self._held: dict[str, tuple[int, str]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._ending: frozenset[str] = frozenset()
        self._ends: set[asyncio.Task[None]] = set()

    def holds(self, consumer: str) -> bool:
        """Whether this host may serve a consumer now. Ask right before each step, without an await in between."""
        held = self._held.get(consumer)
        return held is not None and self._fence.is_standing and held[0] == self._fence.generation

    async def claim(self, consumer: str) -> str:
        """Become the host of a consumer; return "" if this host holds it now, else the machine id of its host.

        Raises StoreUnavailable, UnknownOutcome, Denied, and MembershipLost where the fence is down.
        """
        async with self._turn(consumer):
            if self.holds(consumer):
                return ""
            if consumer in self._ending:
                raise StoreUnavailable(f"{consumer} is being ended here, because this host was cut off. Try again")
            return await self._claim(consumer, self._standing())

    async def _claim(self, consumer: str, generation: int) -> str:
        key = self._keys.unique(consumer)
        value = encode_holder(Holder(self._machine_id, secrets.token_hex(8)))
        found = await self._store.claim(key, value)
        if not found.ok and _host_of(found.value) == self._machine_id:
            # The claim of an agent that was killed, or one whose answer was lost. The consumer may be loaded here, so
            # no other host may come between.
            found = await self._store.claim(key, value, former=found.value)
        if not found.ok and (holder := _host_of(found.value)) != self._machine_id:
            return holder
        if not found.ok:
            raise StoreUnavailable(f"{key} changes all the time. Try again")
        if generation != self._standing():
            # The lease was replaced meanwhile. Which of both holds the key is not known, so it does not count.
            raise StoreUnavailable(f"the lease of this host was replaced while it claimed {consumer}. Try again")
        self._held[consumer] = generation, value
        return ""

    async def release(self, consumer: str) -> None:
        """Give a consumer up, after it was unloaded here. Raises StoreError; it is not held in any case."""
        async with self._turn(consumer):
            _, value = self._held.pop(consumer, (0, ""))
            if value:
                await self._store.release(self._keys.unique(consumer), value)

    async def run(self) -> None:
        """Report consumers that are no longer held, and give up stray claims, until cancelled."""
        try:
            await asyncio.gather(self._watch_fence(), self._tidy_forever())
        finally:
            for task in self._ends:
                task.cancel()

    async def _watch_fence(self) -> None:
        while True:
            self._lose(frozenset(one for one in self._held if not self.holds(one)))
            # Not later than the fence: its margin is the time in which the leases end.
            await self._clock.sleep(min(self._fence.remaining_sec or WATCH_SEC, WATCH_SEC))

    def _lose(self, lost: frozenset[str]) -> None:
        """End consumers in a task of their own: what is lost meanwhile must not wait until slow leases have ended."""
        if lost:
            self._ending |= lost
            for consumer in lost:
                del self._held[consumer]
            task = asyncio.create_task(self._end(lost))
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)

    async def _end(self, lost: frozenset[str]) -> None:
        try:
            await self._fenced(lost)
        finally:
            self._ending -= lost

    async def _tidy_forever(self) -> None:
        while True:
            await self._clock.sleep(TIDY_SEC)
            with suppress(StoreError):
                await self._tidy()

    async def _tidy(self) -> None:
        """Release claims of this host that it does not know of, and end consumers whose keys are gone.

        Answers of claims can be lost, or claims come late. A key can be deleted by an administrator.
        """
        held = dict(self._held)
        found = await self._store.list(self._keys.uniques) if self._turns else Listing((), 0)
        for entry in found.entries:
            if _host_of(entry.value) == self._machine_id:
                await self._release_stray(last_part(entry.key, self._keys.uniques), entry.value)
        values = {last_part(entry.key, self._keys.uniques): entry.value for entry in found.entries}
        # A claim from after the listing is not in it, and is another one than that of before.
        gone = [one for one, item in held.items() if self._held.get(one) == item and values.get(one) != item[1]]
        self._lose(frozenset(gone))

    async def _release_stray(self, consumer: str, value: str) -> None:
        async with self._turn(consumer):  # no claim is on its way
            held = self._held.get(consumer)
            if self._fence.is_standing and consumer not in self._ending and (held is None or held[1] != value):
                await self._store.release(self._keys.unique(consumer), value)

    def _standing(self) -> int:
        if not self._fence.is_standing:
            raise MembershipLost("this host is not sure of its lease in the store")
        return self._fence.generation

    def _turn(self, consumer: str) -> asyncio.Lock:
        """Claims and releases of a consumer happen one after the other."""
        return self._turns.setdefault(consumer, asyncio.Lock())


def _host_of(value: str) -> str:
    """The machine id in the value of a unique consumer; "unknown" for a value that cannot be read."""
    try:
        return parse_holder(value).host
    except InvalidJson:
        return "unknown"
