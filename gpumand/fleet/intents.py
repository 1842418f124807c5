"""Intents: a router says in the store on which host it loads a consumer, before it asks that host.

Create-if-absent decides between two routers, so that both send their requests to the same host, where they share one
load. An intent is kept until the host's own row shows the load; it ends by itself if its router dies.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gpumand.fleet.background import BackgroundTasks
from gpumand.fleet.calls import AcquireCall, Basis
from gpumand.fleet.clock import Clock
from gpumand.fleet.errors import NotResident
from gpumand.fleet.keys import Keys
from gpumand.fleet.placement import PRESENT, Candidate
from gpumand.fleet.row_json import encode_intent
from gpumand.fleet.rows import ConsumerRow, HostRow, Intent
from gpumand.fleet.store import Entry, FleetStore, StoreError
from gpumand.fleet.table import HostTable

log = logging.getLogger(__name__)

TTL_SEC = 15.0
EXTEND_SEC = 5.0

SETTLE_SEC = 0.5
"""Time in which a load that has begun shows in the row of its host."""

CLAIM_SEC = 2.0
"""Longest time that a request waits for the store. Two loads are better than a request that is not served."""


@dataclass(frozen=True, slots=True)
class Permit:
    """The grounds on which a router sends a request to the host that it chose.

    Attributes:
        basis: why it chose the host.
        revision: the revision of the row or intent; None without a store.
        degraded: why there is no intent although one is needed; "" otherwise.
        kept: the router's own intent, which must be dropped if the request fails; None = it has none.
    """

    basis: Basis
    revision: int | None = None
    degraded: str = ""
    kept: KeptIntent | None = None


class Elsewhere(Exception):
    """Another router loads the consumer on another host; the table knows it now."""


class KeptIntent:
    """An intent of this router, which a task keeps.

    Attributes:
        dropped: set when the request has failed, so that the intent is of no use.
        released: set when it was removed from the store, or could not be.
    """

    def __init__(self) -> None:
        self.dropped, self.released = asyncio.Event(), asyncio.Event()

    def drop(self) -> None:
        """Remove the intent soon."""
        self.dropped.set()

    async def drop_now(self, settle_sec: float) -> None:
        """Remove the intent before the request goes to another host, which needs one of its own.

        Args:
            settle_sec: how long to wait before. Other requests may have followed the intent to the host, and the row
                that shows their load comes a moment later; once it does, the intent is not needed any more.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(settle_sec):
                await self.released.wait()
                return
        self.dropped.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLAIM_SEC):
                await self.released.wait()


class Intents:
    """The intents of one router.

    Args:
        store: the store.
        keys: the keys of the fleet.
        table: the router's table.
        clock: source of time.
        router: name of the router.
        are_possible: whether the store has claims; static peers have none, which is no failure.
    """

    def __init__(
        self,
        store: FleetStore,
        keys: Keys,
        table: HostTable,
        clock: Clock,
        router: str,
        *,
        are_possible: bool = True,
    ) -> None:
        self._store, self._keys, self._table, self._clock, self._router = store, keys, table, clock, router
        self._are_possible = are_possible
        self._background = BackgroundTasks()

    async def permit(self, candidate: Candidate, *, is_row_old: bool = False) -> Permit:
        """Get what is needed to send a request to a host: nothing but the row's revision for a loaded consumer.

        Args:
            candidate: the host.
            is_row_old: the host has said that the consumer is not loaded, whatever its row shows.

        Raises:
            Elsewhere: another router loads the consumer on another host.
        """
        known = self._table.rows.get(candidate.row.machine_id)
        if not self._are_possible:
            return Permit(Basis.NONE)
        if candidate.consumer.residency in PRESENT and known is not None and not is_row_old:
            return Permit(Basis.RESIDENT, known.revision)
        if self._table.interruption:
            return Permit(Basis.NONE, degraded=self._table.interruption)
        return await self._claim(candidate)

    async def close(self) -> None:
        """Drop all intents."""
        await self._background.close()

    async def _claim(self, candidate: Candidate) -> Permit:
        key = self._key(candidate)
        until_usec = self._clock.realtime_usec() + int(TTL_SEC * 1e6)
        value = encode_intent(Intent(candidate.row.machine_id, self._router, secrets.token_hex(8), until_usec))
        try:
            async with asyncio.timeout(CLAIM_SEC):
                claim = await self._store.claim(key, value, TTL_SEC)
        except (StoreError, TimeoutError) as error:
            self._background.spawn(self._release(key, value))  # the claim may have been carried out
            return Permit(Basis.NONE, degraded=str(error) or f"the store did not answer within {CLAIM_SEC:g} s")
        # The watch reports it too, but the next request may come earlier.
        self._table.learn(Entry(key, claim.value, claim.revision))
        if not claim.ok:
            return self._follow(candidate, claim.revision)
        kept = KeptIntent()
        self._background.spawn(self._keep(key, value, candidate, kept))
        return Permit(Basis.INTENT, claim.revision, kept=kept)

    def _follow(self, candidate: Candidate, revision: int) -> Permit:
        """Use the intent of another router, if it is for the same host. Raises Elsewhere."""
        intents = self._table.view().intents.get(candidate.name, ())
        if any(one.host == candidate.row.machine_id for one in intents):
            return Permit(Basis.INTENT, revision)
        raise Elsewhere

    def _key(self, candidate: Candidate) -> str:
        """The key of an intent; further copies of a consumer that is loaded elsewhere have keys of their own."""
        view = self._table.view()
        others = [row for row in view.usable() if row.machine_id != candidate.row.machine_id]
        copies = [row for row in others if _is_present(row.consumers.get(candidate.name))]
        return self._keys.intent(candidate.name, len(copies))

    async def _keep(self, key: str, value: str, candidate: Candidate, kept: KeptIntent) -> None:
        """Keep an intent until the host's row shows the load, or the request has failed."""
        dropped = asyncio.ensure_future(kept.dropped.wait())
        extend_at = self._clock.boottime() + EXTEND_SEC
        try:
            while not kept.dropped.is_set() and not self._shows(candidate):
                changed = asyncio.ensure_future(self._table.wait_changed(extend_at - self._clock.boottime()))
                await asyncio.wait({changed, dropped}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if self._clock.boottime() >= extend_at:
                    extend_at = self._clock.boottime() + EXTEND_SEC
                    if not await self._extend(key, value):
                        return
        finally:
            dropped.cancel()
            self._table.forget_intent(key, value)
            await self._release(key, value)
            kept.released.set()

    async def _extend(self, key: str, value: str) -> bool:
        """Extend an intent; False if another router has taken its place."""
        try:
            return (await self._store.claim(key, value, TTL_SEC)).ok
        except StoreError as error:
            log.debug("%s cannot be extended: %s", key, error)
            return True

    def _shows(self, candidate: Candidate) -> bool:
        known = self._table.rows.get(candidate.row.machine_id)
        if known is None:
            return True
        # A row that was old when the intent was made may show the consumer as it was before.
        is_newer = known.row.order != candidate.row.order
        return is_newer and _is_present(known.row.consumers.get(candidate.name))

    async def _release(self, key: str, value: str) -> None:
        try:
            await self._store.release(key, value)
        except StoreError as error:
            log.debug("%s cannot be released, and ends by itself: %s", key, error)


class IntentGuard:
    """Checks on the host itself that the intent of a request still stands: it may have been dropped on the way.

    Args:
        table: the table of this host.
        machine_id: machine id of this host.
        row: the newest row of this host.
    """

    def __init__(self, table: HostTable, machine_id: str, row: Callable[[], HostRow]) -> None:
        self._table, self._machine_id, self._row = table, machine_id, row

    async def check(self, call: AcquireCall) -> None:
        """Return if this host may load the consumer for a request. Raises NotResident."""
        if call.basis is Basis.NONE or self._is_loaded(call.consumer):
            return
        if call.basis is Basis.INTENT and await self._stands(call):
            return
        raise NotResident(f"{call.consumer} is not loaded here, and no intent to load it here stands. Claim one first.")

    async def _stands(self, call: AcquireCall) -> bool:
        # The watch of this host is a few milliseconds behind the answer that the router has got.
        if call.revision is None or not await self._table.wait_watched(call.revision, SETTLE_SEC):
            return True  # this host knows less than the router
        return self._table.has_intent(call.consumer, self._machine_id, call.revision) or self._is_loaded(call.consumer)

    def _is_loaded(self, consumer: str) -> bool:
        return _is_present(self._row().consumers.get(consumer))


def _is_present(consumer: ConsumerRow | None) -> bool:
    return consumer is not None and consumer.residency in PRESENT
