"""Handles requests that open a WebSocket: with a lease while messages are exchanged, or without any."""

from __future__ import annotations

import asyncio

import aiohttp

from gpumand.gateway import web, websockets
from gpumand.gateway.exchange import Exchange
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
    """

    def __init__(self, parts: Parts, looks: LookHandler) -> None:
        self._parts, self._looks = parts, looks

    async def handle(self, exchange: Exchange) -> web.StreamResponse:
        """Pass a WebSocket until one side closes it. Raises Refused."""
        if exchange.entry.kind is RouteClass.LOOK:
            return await self._connect(exchange, await self._looks.endpoint(exchange), None)
        lease = SocketLease(self._parts, exchange)
        try:
            return await self._connect(exchange, await lease.acquire(), lease)
        finally:
            lease.close()

    async def _connect(self, exchange: Exchange, endpoint: Endpoint, lease: SocketLease | None) -> web.StreamResponse:
        try:
            upstream = await websockets.open_upstream(exchange, self._parts.upstreams, endpoint)
        except aiohttp.WSServerHandshakeError as error:
            return web.Response(status=error.status)
        except UpstreamDown:
            await asyncio.sleep(REFUSE_SEC)
            raise not_running(exchange.service.consumer) from None
        try:
            client = await websockets.accept(exchange, upstream)
        except BaseException:
            await upstream.close()
            raise
        if lease is None:
            await websockets.pump(client, upstream, lambda: None, lambda: None)
        else:
            await websockets.pump(client, upstream, lease.before_message, lease.touch)
        return client


class SocketLease:
    """The lease of a WebSocket: held while messages are exchanged, and acquired again after a pause.

    Args:
        parts: what all handlers share.
        exchange: the request that opened the WebSocket.
    """

    def __init__(self, parts: Parts, exchange: Exchange) -> None:
        self._parts, self._exchange = parts, exchange
        self._idle_sec = exchange.service.settings.ws_idle_sec
        self._ticket: Ticket | None = None
        self._acquiring: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._clock = asyncio.get_running_loop().time
        self._active_at = self._clock()

    async def acquire(self) -> Endpoint:
        """Acquire the lease for the handshake. Raises Refused."""
        self._ticket = self._parts.join(self._exchange)
        endpoint = await self._parts.granted(self._exchange, self._ticket, self._parts.holder(self._exchange))
        self._start()
        return endpoint

    def touch(self) -> None:
        """A data message has passed; it is the activity that keeps the lease."""
        self._active_at = self._clock()

    def before_message(self) -> asyncio.Future[None] | None:
        """A data message of the client waits; the result is awaited if the lease has to be acquired again."""
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

    def _drop(self) -> None:
        if self._ticket is not None:
            self._ticket.leave()
            self._ticket = None
