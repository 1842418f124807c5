"""Keeps a client while its request waits: silence at first, then signs of life in the form of its API."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from aiohttp import HttpVersion11

from gpumand.gateway import web
from gpumand.gateway.cors import allow
from gpumand.gateway.dialects import JSON
from gpumand.gateway.exchange import Exchange
from gpumand.gateway.websockets import is_websocket

T = TypeVar("T")

EARLY_STATUS = b"HTTP/1.1 102 Processing\r\n\r\n"

CHECK_SEC = 0.5
"""Interval at which a waiting client is checked for having left."""


@dataclass(frozen=True, slots=True)
class HoldTimes:
    """Times in seconds: maximum wait, silence before the first sign of life, and between two of them."""

    wait_sec: float = 290.0
    patience_sec: float = 10.0
    drip_sec: float = 5.0


READ_LIMIT_HEADERS = ("X-Stainless-Read-Timeout", "X-Stainless-Timeout")
"""Headers in which the libraries of OpenAI and Anthropic announce after how many seconds of silence they give up."""

MIN_PAUSE_SEC = 0.25
"""The shortest time between two signs of life, whatever a client announces."""


def times_for(headers: Mapping[str, str], times: HoldTimes) -> HoldTimes:
    """The times for a client: shorter than configured, where it announces that it would give up before.

    Args:
        headers: the headers of its request.
        times: the configured times.
    """
    announced = [limit for name in READ_LIMIT_HEADERS if (limit := _seconds(headers.get(name, ""))) > 0]
    if not announced:
        return times
    # Half of the limit: the sign must arrive before it is over, also on a slow connection.
    pause_sec = max(MIN_PAUSE_SEC, min(announced) / 2)
    patience_sec, drip_sec = min(times.patience_sec, pause_sec), min(times.drip_sec, pause_sec)
    return replace(times, patience_sec=patience_sec, drip_sec=drip_sec)


def _seconds(text: str) -> float:
    """A number of seconds; 0.0 for anything else."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


class WaitedTooLong(Exception):
    """The maximum wait of a request has passed."""


class Holder:
    """Holds the client of one request.

    Args:
        exchange: the request; its ``response`` is begun here if the wait is long.
        times: the times.
        describe: returns why the request waits, in one line.
    """

    def __init__(self, exchange: Exchange, times: HoldTimes, describe: Callable[[], Awaitable[str]]) -> None:
        self._exchange, self._times, self._describe = exchange, times, describe
        self._clock = asyncio.get_running_loop().time
        self._next_drip = self._clock() + times.patience_sec
        self._ends_at = self._clock() + times.wait_sec

    @property
    def is_silent(self) -> bool:
        """Whether no sign of life will be sent while the consumer works on the request."""
        return not self._may_drip(is_loading=False)

    async def wait(self, future: asyncio.Future[T], *, is_limited: bool) -> T:
        """Wait for a result, and keep the client meanwhile.

        Args:
            future: the result; it is not cancelled when the wait ends otherwise.
            is_limited: whether the maximum wait applies.

        Raises:
            WaitedTooLong: the maximum wait is over.
        """
        while not future.done():
            now = self._clock()
            if is_limited and now >= self._ends_at:
                raise WaitedTooLong
            if self._may_drip(is_loading=is_limited) and now >= self._next_drip:
                await self._drip()
                self._next_drip = now + self._times.drip_sec
                continue
            await asyncio.wait({future}, timeout=self._pause_sec(now, is_limited))
            self._exchange.connection.check_peer()
        return future.result()

    def _pause_sec(self, now: float, is_limited: bool) -> float:
        drip_at = self._next_drip if self._may_drip(is_loading=is_limited) else now + CHECK_SEC
        end_at = self._ends_at if is_limited else now + CHECK_SEC
        return max(0.0, min(CHECK_SEC, drip_at - now, end_at - now))

    def _may_drip(self, *, is_loading: bool) -> bool:
        """Whether a sign of life may be sent now."""
        exchange = self._exchange
        if is_websocket(exchange.request):
            # Only messages of the consumer may be written to an open WebSocket, and clients know no answer before 101.
            return False
        if exchange.response is not None:
            return True
        if exchange.request.version < HttpVersion11:
            return False
        if not exchange.dialect.content_type:
            return exchange.service.settings.early_status
        # A consumer may load its model with the first request. For plain JSON the status of its answer matters more.
        return is_loading or exchange.dialect.content_type != JSON

    async def _drip(self) -> None:
        exchange = self._exchange
        text = await self._describe()
        exchange.entry.waits_for = text
        if exchange.dialect.content_type or exchange.response is not None:
            # Debian 12's aiohttp takes a response for false, as an empty mapping.
            if exchange.response is None:
                exchange.response = await self._begin()
            await exchange.response.write(exchange.dialect.drip(text))
        elif exchange.request.transport is not None:
            # aiohttp has no way to send an interim answer; nothing else is written before the answer begins.
            exchange.request.transport.write(EARLY_STATUS)
        exchange.entry.dripped_sec += self._times.drip_sec

    async def _begin(self) -> web.StreamResponse:
        headers = {
            "Content-Type": self._exchange.dialect.content_type,
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
        response = web.StreamResponse(headers=headers)
        allow(response.headers, self._exchange.listed_origin)
        await response.prepare(self._exchange.request)
        self._exchange.entry.status = 200
        return response
