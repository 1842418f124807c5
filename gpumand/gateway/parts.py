"""The objects that all request handlers of the gateway share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpumand.client.errors import GpumandError
from gpumand.gateway.config import GatewaySettings
from gpumand.gateway.elsewhere import ElsewhereHandler
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.holding import Holder, HoldTimes, WaitedTooLong, times_for
from gpumand.gateway.leases import LeaseKeeper, Ticket
from gpumand.gateway.refusals import (
    BACKOFF_RETRY_SEC,
    ESTIMATED,
    MIN_RETRY_SEC,
    PAUSE,
    Refusal,
    Refused,
    clamped,
    refusal_of,
    refused,
    retry_of,
)
from gpumand.gateway.requests import RequestTable
from gpumand.gateway.slots import Slot, SlotKeeper, SlotLimits
from gpumand.gateway.status_view import CURRENT_SEC, StatusView
from gpumand.gateway.upstream import Endpoint, Upstreams, endpoint_of
from gpumand.gateway.visibility import IN_USE, refusal_for, text_for

UNKNOWN_LOAD_SEC = 10.0

PRIORITY_SEC = 10.0
"""How old the known priority of a consumer may be."""

STATUS_SEC = 0.5
"""How long a request waits for the priority of its consumer."""


@dataclass(slots=True)
class Parts:
    """The shared parts.

    Attributes:
        settings: returns the configuration that is in force.
        leases: the leases of requests in flight.
        status: what is known of gpumand's status.
        upstreams: the HTTP clients.
        table: the requests in flight.
        absence: returns why gpumand cannot be reached; "" if it can.
        slots: limits the requests that a consumer works on.
        elsewhere: passes requests on to other hosts.
    """

    settings: Callable[[], GatewaySettings]
    leases: LeaseKeeper
    status: StatusView
    upstreams: Upstreams
    table: RequestTable
    absence: Callable[[], str]
    slots: SlotKeeper
    elsewhere: ElsewhereHandler

    def holder(self, exchange: Exchange) -> Holder:
        """The holder of a request's client."""
        one = self.settings()
        times = times_for(exchange.request.headers, HoldTimes(one.wait_sec, one.patience_sec, one.drip_sec))
        return Holder(exchange, times, lambda: self._reason(exchange))

    async def join(self, exchange: Exchange) -> Ticket:
        """Count a request for its consumer's lease."""
        priority = await self.priority(exchange)
        return self.leases.join(exchange.service.consumer, priority, exchange.label)

    async def priority(self, exchange: Exchange) -> int | None:
        """The priority of a request: that of its API key, else of its listener, else of its consumer.

        None = that of the consumer, while gpumand does not say what that is; gpumand applies it then.
        """
        own = exchange.client.priority
        own = exchange.service.settings.priority if own is None else own
        if own is not None:
            return own
        # A client that waits gets signs of life, and one that waits for a status would get none.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATUS_SEC):
                found = await self.status.consumer(exchange.service.consumer, PRIORITY_SEC)
                return found.priority if found else None
        return None

    async def granted(self, exchange: Exchange, ticket: Ticket, holder: Holder) -> Endpoint:
        """Wait for the lease of a request; returns where its consumer is. Raises Refused."""
        consumer = exchange.service.consumer
        if not ticket.ready.done():
            await self._wait(exchange, ticket.ready, holder)
        try:
            endpoint = endpoint_of(consumer, ticket.ready.result().endpoint)
        except GpumandError as error:
            refusal = await self._refusal(consumer, error)
            raise Refused(refusal_for(exchange.client, refusal, consumer, await self.status.names())) from None
        exchange.entry.is_working = True
        return endpoint

    async def _refusal(self, consumer: str, error: GpumandError) -> Refusal:
        # Each question may have to wait for gpumand.
        retry = retry_of(error)
        estimate_sec = await self.retry_sec(consumer) if retry == ESTIMATED else MIN_RETRY_SEC
        pause_sec = await self.status.pause_sec(consumer) if retry == PAUSE else BACKOFF_RETRY_SEC
        return refusal_of(error, estimate_sec, pause_sec)

    async def slot(self, exchange: Exchange, holder: Holder) -> Slot:
        """Wait until the consumer of a request has a slot for it. Raises Refused."""
        settings = exchange.service.settings
        limits = SlotLimits(settings.slots, min(settings.reserved_slots, settings.slots))
        priority = await self.priority(exchange) if limits.total else 0
        slot = self.slots.request(exchange.service.consumer, limits, exchange.client, priority or 0)
        try:
            if not slot.ready.done():
                await self._wait(exchange, slot.ready, holder)
        except BaseException:
            slot.leave()
            raise
        return slot

    async def _wait(self, exchange: Exchange, future: asyncio.Future[Any], holder: Holder) -> None:
        entry = exchange.entry
        self.table.begin_wait(entry)
        began_at = self.table.now()
        try:
            await holder.wait(future, is_limited=True)
        except WaitedTooLong:
            raise await self._too_late(exchange) from None
        except GpumandError:
            return  # the caller reads the error from the ticket
        finally:
            entry.waited_sec += self.table.now() - began_at
            self.table.end_wait(entry)

    async def _too_late(self, exchange: Exchange) -> Refused:
        consumer = exchange.service.consumer
        if absence := self.absence():
            return refused(503, "unavailable", f"gpumand cannot be reached: {absence}", 5)
        why = (await self._reason(exchange)).rstrip(".")
        text = f"Timed out after {self.settings().wait_sec:g} s. {why}. Try again later."
        return refused(429, "gpu_busy", text, await self.retry_sec(consumer))

    async def _reason(self, exchange: Exchange) -> str:
        """Why a request waits, as its client may read it."""
        consumer = exchange.service.consumer
        text = await self.describe(consumer)
        if exchange.client.consumers is None:
            return text
        waiting = f"{consumer}: waiting for {IN_USE}"
        place, _ = await self.status.place(consumer)
        if place is not None:
            return waiting
        return text_for(exchange.client, text, await self.status.names(), waiting)

    async def describe(self, consumer: str) -> str:
        """Why requests for a consumer wait, in one line."""
        if absence := self.absence():
            return f"Waiting for gpumand: {absence}"
        waiting, total = await self.status.place(consumer)
        if waiting is not None and waiting.waiting_for:
            return f"{consumer}: place {waiting.position} of {total} in the queue: {waiting.waiting_for}"
        found = await self.status.consumer(consumer, CURRENT_SEC)
        doing = found.doing if found else ""
        return f"{consumer}: {doing or 'waiting for its turn'}"

    async def retry_sec(self, consumer: str) -> int:
        """Estimated seconds until a request for a consumer could be served."""
        load_sec = await self.status.usual_load_sec(consumer)
        _, waiting = await self.status.place(consumer)
        return clamped((load_sec or UNKNOWN_LOAD_SEC) * (1 + waiting))
