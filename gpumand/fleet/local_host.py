"""This host as its own router and the routers of other hosts use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

from gpumand.client.errors import NotRunning
from gpumand.client.held_lease import Held
from gpumand.domain.errors import LimitsExceeded, ShuttingDown
from gpumand.fleet.calls import AcquireCall, DrainCall, LoadCall, PlanCall
from gpumand.fleet.errors import HostDrained
from gpumand.fleet.intents import IntentGuard
from gpumand.fleet.lease_slots import LeaseSlots
from gpumand.fleet.lease_streams import LeaseHandle
from gpumand.fleet.local_gpumand import LocalGpumand
from gpumand.fleet.row_builder import HostFacts
from gpumand.fleet.rows import HostRow
from gpumand.fleet.tokens import TokenGuard
from gpumand.fleet.unique_rules import UniqueRules

CLAIM_WAIT_SEC = 8.0
"""How long a claim waits for a gpumand that restarts; gateways give it up after 10 s. Requests do not wait here, since
their routers may know another host."""


class LocalLease:
    """A lease of the local gpumand.

    Attributes:
        grant: the first line of its stream.
    """

    def __init__(self, held: Held, facts: HostFacts, endpoint: str, released: Callable[[], None]) -> None:
        self._held, self._released = held, released
        self.grant: dict[str, Any] = {
            "lease": held.id,
            "host": facts.name,
            "machine_id": facts.machine_id,
            "consumer": held.consumer,
            "device": held.device,
            "endpoint": endpoint,
            "evicted": list(held.evicted),
            "loaded": held.loaded,
            "waited_sec": round(held.waited_sec, 3),
        }

    async def wait_ended(self) -> str:
        """See LeaseHandle."""
        return await self._held.ended.wait()

    async def release(self) -> None:
        """See LeaseHandle."""
        try:
            await self._held.release()
        finally:
            self._released()


class LocalHost:
    """The local gpumand with the rules of the fleet in front: drains, tokens, and no load without an intent.

    Args:
        gpumand: the local daemon.
        facts: this host.
        row: the newest row of this host.
        set_drain: starts or ends a drain of this host; returns whether it lasts over a restart.
        intents: checks the intents of requests.
        unique: the rules for unique consumers; None = it has none.
        known: the newest revision of the store that this host knows.
        refresh: builds the row from a reading that begins after the call; None = it is always current.

    Attributes:
        is_stopping: this process ends soon; the next one serves the requests that come now.
    """

    def __init__(
        self,
        gpumand: LocalGpumand,
        facts: HostFacts,
        row: Callable[[], HostRow],
        set_drain: Callable[[bool], Awaitable[bool]],
        intents: IntentGuard,
        unique: UniqueRules | None = None,
        *,
        known: Callable[[], int],
        refresh: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.is_stopping = False
        self._intents = intents
        self._refresh = refresh
        self._unique = unique
        self._gpumand, self._facts, self._row, self._set_drain = gpumand, facts, row, set_drain
        self._tokens = TokenGuard(known)
        self._slots = LeaseSlots()
        self._via: dict[str, str] = {}

    async def acquire(self, call: AcquireCall) -> LeaseHandle:
        """See FleetHost. For a request of this host: the endpoint is the consumer's own."""
        with self._pending(call.consumer):
            caller = f"user {call.user.partition('/')[0] or 'unknown'}"
            held, free = await self._acquire(call, self._local_user(call.user), caller)
            return self._guarded(LocalLease(held, self._facts, held.endpoint, self._noted(held.id, call.via, free)))

    async def acquire_for(self, caller: str, call: AcquireCall) -> LeaseHandle:
        """Acquire a lease for a request of another host: the endpoint is this host's gateway.

        Args:
            caller: name of the host, as its certificate has it.
            call: the request.
        """
        with self._pending(call.consumer):
            held, free = await self._acquire(call, on_behalf(call.user, caller), f"host {caller or 'unknown'}")
            # Consumers listen on addresses that only this host can reach.
            freed = self._noted(held.id, caller or call.via, free)
            return self._guarded(LocalLease(held, self._facts, self._facts.gateway_url, freed))

    def via(self, lease: str) -> str:
        """Name of the host whose router has placed a lease; "" for leases of other clients of gpumand."""
        return self._via.get(lease, "")

    async def plan(self, call: PlanCall) -> dict[str, Any]:
        """See FleetHost."""
        return await self._gpumand.plan(call)

    async def load(self, call: LoadCall) -> dict[str, Any]:
        """See FleetHost."""
        return await self._load(call, self._local_user(call.user))

    async def load_for(self, caller: str, call: LoadCall) -> dict[str, Any]:
        """Load a consumer for another host."""
        return await self._load(call, on_behalf(call.user, caller))

    async def claim(self, consumer: str) -> None:
        """Become the only host of a unique consumer, for a client that acquires it from gpumand itself.

        Nothing happens for other consumers. Raises Busy, NotNowError.
        """
        await self._know(consumer, wait_sec=CLAIM_WAIT_SEC)
        if self._unique is not None:
            await self._unique.promise(consumer)

    async def drain(self, call: DrainCall) -> dict[str, Any]:
        """See FleetHost."""
        is_lasting = await self._set_drain(call.drain)
        return {"host": self._facts.name, "drain": call.drain} | ({} if is_lasting else {"lasting": False})

    async def _load(self, call: LoadCall, behalf: str) -> dict[str, Any]:
        await self._know(call.consumer)
        self._check_running()
        with self._pending(call.consumer):
            if self._unique is not None:
                await self._unique.require(call.consumer)
            loaded = await self._gpumand.load(call, behalf)
            if self._unique is not None:
                self._unique.check_loaded(call.consumer)
            return loaded

    async def _acquire(self, call: AcquireCall, behalf: str, caller: str) -> tuple[Held, Callable[[], None]]:
        """Acquire a lease; return it, and a function to call when it was released."""
        await self._know(call.consumer)
        row = self._row()
        self._check_running()
        if row.draining:
            raise HostDrained(f"{self._facts.name} is drained: it takes no new requests of the fleet")
        self._slots.check(caller)
        self._tokens.check(call.consumer, call.revision)
        if call.consumer in row.consumers:
            await self._intents.check(call)
        if self._unique is not None:
            await self._unique.require(call.consumer)
        held = await self._gpumand.acquire(replace(call, on=""), behalf)
        try:
            return held, self._slots.take(caller)
        except LimitsExceeded:  # other requests of the caller were granted meanwhile
            await held.release()
            raise

    def _check_running(self) -> None:
        """Raise ShuttingDown if this process is about to end, and its leases and loads with it."""
        if self.is_stopping:
            raise ShuttingDown(f"gpumand-fleet of {self._facts.name} is stopping: it takes no new requests")

    async def _know(self, consumer: str, wait_sec: float = 0.0) -> None:
        """Read the row again if it lacks a consumer: gpumand may have it since a moment, and it may be unique.

        Raises NotRunning if gpumand gives no answer in time: whether the consumer is unique is not known then.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + wait_sec
        while consumer not in self._row().consumers and self._refresh is not None:
            await self._refresh()  # once a second at most
            if not self._row().is_away:
                return
            if clock() >= deadline:
                raise NotRunning(f"gpumand of {self._facts.name} gives no answer at the moment. Try again later.")

    def _noted(self, lease: str, via: str, free: Callable[[], None]) -> Callable[[], None]:
        """Note which router a lease came through, until it is released."""
        self._via[lease] = via

        def forget() -> None:
            self._via.pop(lease, None)
            free()

        return forget

    def _pending(self, consumer: str) -> AbstractContextManager[None]:
        return nullcontext() if self._unique is None else self._unique.pending(consumer)

    def _guarded(self, lease: LocalLease) -> LeaseHandle:
        return lease if self._unique is None else self._unique.guard(str(lease.grant["consumer"]), lease)

    def _local_user(self, user: str) -> str:
        return on_behalf(user, self._facts.name)


def on_behalf(user: str, host: str) -> str:
    """The user and host that a request is for, as in "alice@gpu2"; the host was verified, the user is its statement."""
    return f"{user or 'unknown'}@{host or 'unknown'}"
