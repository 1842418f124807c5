"""The methods of org.gpumand1.Manager: check the arguments, identify and authorize the caller, call the arbiter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gpumand.bus.arbiter_port import ArbiterPort
from gpumand.bus.authorization import ACTIONS, Authority, Details
from gpumand.bus.clients import Clients
from gpumand.bus.connection import IncomingCall, Reply
from gpumand.bus.grant_encoder import GRANT_SIGNATURE, GrantEncoder
from gpumand.bus.marshalling import history_entry, outcome_entry, plan_entry, release_entry
from gpumand.bus.names import MANAGER
from gpumand.bus.options import (
    acquire_options,
    check_length,
    evict_options,
    history_query,
    load_options,
    release_options,
    renew_ttl_sec,
)
from gpumand.bus.status_encoder import StatusEncoder
from gpumand.domain.errors import AccessDenied
from gpumand.domain.lease import Lease, LeaseEnd, LeaseLifetime, Owner
from gpumand.domain.request import AcquireOptions

Handler = Callable[[IncomingCall], Reply | Awaitable[Reply]]
ENCODED_AT_ONCE = 128
"""Consumers that are encoded in one iteration of the event loop while gpumand starts, which takes about 4 ms."""


class ManagerMethods:
    """Answers the methods of org.gpumand1.Manager.

    Args:
        arbiter: serves the calls.
        clients: identifies callers.
        authority: decides which calls are allowed.
    """

    def __init__(self, arbiter: ArbiterPort, clients: Clients, authority: Authority) -> None:
        self._arbiter = arbiter
        self._clients = clients
        self._authority = authority
        self._status_encoder, self._grant_encoder = StatusEncoder(), GrantEncoder()
        self.handlers: dict[tuple[str, str], Handler] = {
            (MANAGER, "Acquire"): self._acquire,
            (MANAGER, "Release"): self._release,
            (MANAGER, "Renew"): self._renew,
            (MANAGER, "Cancel"): self._cancel,
            (MANAGER, "GetStatus"): self._get_status,
            (MANAGER, "GetHistory"): self._get_history,
            (MANAGER, "Plan"): self._plan,
            (MANAGER, "Load"): self._load,
            (MANAGER, "Evict"): self._evict,
            (MANAGER, "Pin"): self._pin,
            (MANAGER, "Unpin"): self._unpin,
            (MANAGER, "Reload"): self._reload,
            (MANAGER, "ReleaseGpu"): self._release_gpu,
            (MANAGER, "TakeGpu"): self._take_gpu,
        }

    async def _acquire(self, call: IncomingCall) -> Reply:
        consumer, options = _consumer(call), acquire_options(call.body[1])
        with self._clients.keep_watched(call.sender):
            owner = await self._owner(call, consumer, options)
            # The arbiter ends a client's requests when the bus announces that it left. A client that left before it was
            # watched is not announced, so its request would wait without an owner.
            await self._require_present(call.sender)
            # The lookups of its unit and its names may have ended while the bus answered.
            owner = await self._clients.refreshed(owner)
            grant = await self._arbiter.acquire(owner, consumer, options)
        return Reply(GRANT_SIGNATURE, ("", {}), checked=True, content=self._grant_encoder.encode(grant))

    async def _release(self, call: IncomingCall) -> Reply:
        lease = self._lease(call)
        caller = await self._allow_with_lease(call, lease)
        own = caller.uid == lease.owner.uid
        await self._arbiter.release(lease.id, LeaseEnd.RELEASED if own else LeaseEnd.REVOKED)
        return self._reply()

    async def _renew(self, call: IncomingCall) -> Reply:
        ttl_sec, lease = renew_ttl_sec(call.body[1]), self._lease(call)
        await self._allow_with_lease(call, lease)
        renewed = await self._arbiter.renew(lease.id, ttl_sec)
        return self._reply("t", renewed.expires_usec)

    async def _cancel(self, call: IncomingCall) -> Reply:
        request = check_length("the request id", call.body[0])
        owner_uid = self._arbiter.request_owner(request).uid
        caller = await self._clients.identify(call.sender)
        await self._allow(call, caller, Details(call.member, request=request, owner_uid=owner_uid))
        self._arbiter.cancel(request, caller)
        return self._reply()

    async def prepare_status(self) -> None:
        """Encode all consumers, some in each iteration of the event loop, so that the first GetStatus need not."""
        consumers = self._arbiter.status().consumers
        for start in range(0, len(consumers), ENCODED_AT_ONCE):
            self._status_encoder.remember(consumers[start : start + ENCODED_AT_ONCE])
            await asyncio.sleep(0)

    def _get_status(self, call: IncomingCall) -> Reply | Awaitable[Reply]:
        reading = self._arbiter.status_refresh()
        return self._status() if reading is None else self._status_after(reading)

    async def _status_after(self, reading: Awaitable[None]) -> Reply:
        await reading
        return self._status()

    def _status(self) -> Reply:
        return Reply("a{sv}", ({},), checked=True, content=self._status_encoder.encode(self._arbiter.status()))

    async def _get_history(self, call: IncomingCall) -> Reply:
        entries = await self._arbiter.history(history_query(call.body[0]))
        return self._reply("aa{sv}", [history_entry(entry) for entry in entries])

    async def _plan(self, call: IncomingCall) -> Reply:
        consumer, options = _consumer(call), acquire_options(call.body[1])
        caller = await self._identify(call, self._unit_of(consumer))
        return self._reply("a{sv}", plan_entry(await self._arbiter.plan(caller, consumer, options)))

    async def _load(self, call: IncomingCall) -> Reply:
        consumer, options = _consumer(call), load_options(call.body[1])
        await self._allow_with_consumer(call, consumer, options.on_behalf)
        outcome = await self._arbiter.load(consumer, options.device, options.timeout_sec)
        return self._reply("a{sv}", outcome_entry(outcome))

    async def _evict(self, call: IncomingCall) -> Reply:
        consumer, options = _consumer(call), evict_options(call.body[1])
        await self._allow_with_consumer(call, consumer, force=options.force)
        outcome = await self._arbiter.evict(consumer, options.force, options.timeout_sec, options.method)
        return self._reply("a{sv}", outcome_entry(outcome))

    async def _pin(self, call: IncomingCall) -> Reply:
        return await self._set_pinned(call, True)

    async def _unpin(self, call: IncomingCall) -> Reply:
        return await self._set_pinned(call, False)

    async def _set_pinned(self, call: IncomingCall, pinned: bool) -> Reply:
        consumer = _consumer(call)
        await self._allow_with_consumer(call, consumer)
        await self._arbiter.pin(consumer, pinned)
        return self._reply()

    async def _release_gpu(self, call: IncomingCall) -> Reply:
        options = release_options(call.body[0])
        with self._clients.keep_watched(call.sender):
            owner = await self._clients.identify(call.sender)
            await self._allow(call, owner, Details(call.member))
            # A client that leaves is announced only while it is watched.
            await self._require_present(call.sender)
            ended = self._clients.retained(call.sender) if options.bound else None
            report = await self._arbiter.release_gpu(owner, options, ended)
        return self._reply("a{sv}", release_entry(report))

    async def _take_gpu(self, call: IncomingCall) -> Reply:
        await self._allow(call, await self._clients.identify(call.sender), Details(call.member))
        return self._reply("b", self._arbiter.take_gpu())

    async def _reload(self, call: IncomingCall) -> Reply:
        await self._allow(call, await self._clients.identify(call.sender), Details(call.member))
        await self._arbiter.reload()
        return self._reply()

    async def _owner(self, call: IncomingCall, consumer: str, options: AcquireOptions) -> Owner:
        """Identify and authorize the caller of Acquire, with its unit where the lease or the permission needs it."""
        unit = self._unit_of(consumer)
        if options.lifetime is LeaseLifetime.UNIT:
            owner = await self._clients.identify_with_running_unit(call.sender)
        elif not consumer:
            # A reservation is rare and names no consumer: the unit of its holder is what an administrator looks for.
            owner = await self._clients.identify_with_unit(call.sender, decides=False)
        else:
            owner = await self._identify(call, unit)
        fleet = self._arbiter.consumer_fleet(consumer) if consumer else ""
        await self._allow(call, owner, Details(call.member, consumer, unit, on_behalf=options.on_behalf, fleet=fleet))
        return owner

    def _unit_of(self, consumer: str) -> str:
        """The unit of the requested consumer; "" for a reservation. Raises NoSuchConsumer."""
        return self._arbiter.consumer_unit(consumer) if consumer else ""

    async def _identify(self, call: IncomingCall, consumer_unit: str) -> Owner:
        """Identify the caller; wait for its unit only if the consumer has a unit that could be the caller's."""
        if consumer_unit:
            return await self._clients.identify_with_unit(call.sender)
        owner = await self._clients.identify(call.sender)
        self._clients.start_unit_lookup(owner)
        return owner

    async def _require_present(self, sender: str) -> None:
        if not await self._clients.watch(sender):
            raise AccessDenied("the caller has left the bus")

    async def _allow_with_consumer(
        self, call: IncomingCall, consumer: str, on_behalf: str = "", *, force: bool = False
    ) -> None:
        unit, fleet = self._arbiter.consumer_unit(consumer), self._arbiter.consumer_fleet(consumer)
        caller = await self._identify(call, unit)
        details = Details(call.member, consumer, unit, on_behalf=on_behalf, force=force, fleet=fleet)
        await self._allow(call, caller, details)

    async def _allow_with_lease(self, call: IncomingCall, lease: Lease) -> Owner:
        caller = await self._clients.identify(call.sender)
        details = Details(call.member, lease.consumer, lease=lease.id, owner_uid=lease.owner.uid)
        await self._allow(call, caller, details)
        return caller

    async def _allow(self, call: IncomingCall, caller: Owner, details: Details) -> None:
        """Raise unless the caller is allowed to perform the method's action."""
        action = ACTIONS[MANAGER, call.member]
        if action is not None:
            await self._authority.check(caller, action, details, call.interactive)

    def _lease(self, call: IncomingCall) -> Lease:
        return self._arbiter.lease(check_length("the lease id", call.body[0]))

    def _reply(self, signature: str = "", *body: object) -> Reply:
        return Reply(signature, body, checked=True)  # ids are gpumand's own, and the rest comes from ``marshalling``


def _consumer(call: IncomingCall) -> str:
    return check_length("the consumer's name", call.body[0])
