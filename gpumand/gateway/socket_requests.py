"""Handles requests that open a WebSocket: with a lease while messages are exchanged, or without any."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gpumand.gateway import web, websockets
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.handshakes import HandshakeRefused
from gpumand.gateway.job_holder import JobHolder
from gpumand.gateway.leases import Ticket
from gpumand.gateway.looking import LookHandler, not_running
from gpumand.gateway.parts import Parts
from gpumand.gateway.refusals import Refused
from gpumand.gateway.routes.classes import RouteClass
from gpumand.gateway.upstream import Endpoint, UpstreamDown

REFUSE_SEC = 1.0
"""Delay of a refused handshake: some clients repeat it hundreds of times a second."""


class SocketHandler:
    """Handles WebSockets.

    Args:
        parts: what all handlers share.
        looks: determines the endpoint of a consumer without a lease.
        jobs: holds the leases of jobs.
    """

    def __init__(self, parts: Parts, looks: LookHandler, jobs: JobHolder) -> None:
        self._parts, self._looks, self._jobs = parts, looks, jobs

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        """Pass a WebSocket until one side closes it. Raises Refused."""
        if exchange.entry.kind is RouteClass.LOOK:
            return await self._connect(exchange, await self._looks.endpoint(exchange), None)
        lease = SocketLease(self._parts, exchange, self._leave_for(exchange))
        try:
            return await self._connect(exchange, await lease.acquire(), lease)
        finally:
            lease.close()

    def _leave_for(self, exchange: Exchange) -> Callable[[Ticket], None]:
        """What becomes of the lease when the WebSocket is idle or closed: a job may go on without messages."""
        if exchange.entry.kind is RouteClass.JOB:
            return lambda ticket: self._jobs.hold(exchange, ticket)
        return Ticket.leave

    async def _connect(self, exchange: Exchange, endpoint: Endpoint, lease: SocketLease | None) -> web.StreamResponse:
        try:
            upstream = await websockets.open_upstream(exchange, self._parts.upstreams, endpoint)
        except HandshakeRefused as error:
            return websockets.refusal(exchange, error, endpoint)
        except UpstreamDown:
            await asyncio.sleep(REFUSE_SEC)
            raise not_running(exchange.service.consumer) from None
        try:
            client = await websockets.accept(exchange, upstream, endpoint)
        except BaseException:
            await upstream.close()
            raise

        def own_end() -> websockets.End | None:
            refusal = exchange.entry.refusal
            return None if refusal is None else websockets.End(websockets.POLICY_VIOLATION, refusal.message)

        if lease is None:
            await websockets.pump(client, upstream, lambda: None, lambda: None, own_end)
        else:
            lease.is_open = True
            await websockets.pump(client, upstream, lease.before_message, lease.touch, own_end)
        return client


class SocketLease:
    """The lease of a WebSocket: held while messages are exchanged, and acquired again after a pause.

    Args:
        parts: what all handlers share.
        exchange: the request that opened the WebSocket.
        leave: takes the ticket of a WebSocket that was used, when it is idle or closed.

    Attributes:
        is_open: whether the consumer has accepted the WebSocket.
    """

    def __init__(self, parts: Parts, exchange: Exchange, leave: Callable[[Ticket], None]) -> None:
        self._parts, self._exchange, self._leave = parts, exchange, leave
        self.is_open = False
        self._idle_sec = exchange.service.settings.ws_idle_sec
        self._ticket: Ticket | None = None
        self._acquiring: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._clock = asyncio.get_running_loop().time
        self._active_at = self._clock()

    async def acquire(self) -> Endpoint:
        """Acquire the lease for the handshake. Raises Refused."""
        self._ticket = await self._parts.join(self._exchange)
        endpoint = await self._parts.granted(self._exchange, self._ticket, self._parts.holder(self._exchange))
        self._start()
        return endpoint

    def touch(self) -> None:
        """A data message has passed; it is the activity that keeps the lease."""
        self._active_at = self._clock()

    def before_message(self) -> asyncio.Future[None] | None:
        """A data message of the client waits; the result is awaited if the lease has to be acquired again."""
        if self._exchange.entry.refusal is not None or self._exchange.entry.is_cancelled:
            raise ConnectionResetError("the client of the WebSocket may not send messages any more")
        self.touch()
        if self._acquiring is None and self._ticket is None:
            self._acquiring = asyncio.ensure_future(self._acquire_again())
        return self._acquiring

    def close(self) -> None:
        """The WebSocket has ended."""
        if self._timer is not None:
            self._timer.cancel()
        if self._acquiring is not None:
            self._acquiring.cancel()
        self._drop()

    async def _acquire_again(self) -> None:
        try:
            await self.acquire()
        except Refused:
            self._drop()
            raise ConnectionResetError("the lease of the WebSocket was refused") from None
        finally:
            self._acquiring = None

    def _start(self) -> None:
        self.touch()
        self._timer = asyncio.get_running_loop().call_later(self._idle_sec, self._check)

    def _check(self) -> None:
        left_sec = self._active_at + self._idle_sec - self._clock()
        if left_sec > 0:
            self._timer = asyncio.get_running_loop().call_later(left_sec, self._check)
        else:
            self._drop()
            self._end_if_refused()

    def _end_if_refused(self) -> None:
        """Close a WebSocket whose client may not use it any more, now that the consumer's work has ended."""
        entry = self._exchange.entry
        if self.is_open and entry.refusal is not None and entry.task is not None:
            entry.is_cancelled = True
            entry.task.cancel()

    def _drop(self) -> None:
        if (ticket := self._ticket) is None:
            return
        self._ticket, self._exchange.entry.is_working = None, False
        is_granted = ticket.ready.done() and not ticket.ready.cancelled() and ticket.ready.exception() is None
        if self.is_open and is_granted:
            self._leave(ticket)
        else:
            ticket.leave()
