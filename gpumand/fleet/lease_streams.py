"""Serves a lease as a stream: the first line is the grant, then a newline each second; closing it ends the lease.

A refusal that comes soon has its own HTTP status. Later ones are a line of the stream, because the answer has begun
then: without newlines neither side could see during a long wait that the other one is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from typing import Any, Protocol, TypeVar

from aiohttp.web_response import StreamResponse

from gpumand.domain.errors import GpumandError, NotNowError
from gpumand.fleet.calls import dump_line
from gpumand.fleet.errors import error_body
from gpumand.fleet.http_server import LOST_SEC, Request, error_response

BEAT_SEC = 1.0
BEAT = b"\n"
RELEASE = b"release\n"
"""Sent by a router to end the lease while it waits for the last line of the answer."""

EARLY_SEC = 0.5
"""A request that is decided within this time gets an answer with its own HTTP status."""

RELEASED = "released"

T = TypeVar("T")


class LeaseHandle(Protocol):
    """A granted lease that ends when it is released."""

    @property
    def grant(self) -> Mapping[str, Any]:
        """The first line of the stream."""

    async def wait_ended(self) -> str:
        """Wait until the lease has ended for another reason; returns the reason."""

    async def release(self) -> None:
        """End the lease; may be called repeatedly, and completes even if the caller is cancelled."""


async def serve_lease(request: Request, work: Awaitable[LeaseHandle]) -> StreamResponse:
    """Answer a request for a lease, and keep the lease for as long as the client is connected.

    Args:
        request: the request; its body was read up to the end of the first line.
        work: acquires the lease; it is cancelled when the client leaves.
    """
    stream = _Stream(request)
    acquiring, gone = asyncio.ensure_future(work), asyncio.ensure_future(client_gone(request))
    try:
        await asyncio.wait({acquiring, gone}, timeout=EARLY_SEC, return_when=asyncio.FIRST_COMPLETED)
        while not acquiring.done() and not gone.done():
            await stream.write(BEAT)
            await asyncio.wait({acquiring, gone}, timeout=BEAT_SEC, return_when=asyncio.FIRST_COMPLETED)
        if acquiring.done() and (refusal := _error_of(acquiring)) is not None:
            return await stream.refuse(refusal)
        if not gone.done():
            await _keep(stream, acquiring.result(), gone)
        return await stream.finish()
    except (ConnectionError, TimeoutError):
        request.connection.abort()
        return stream.response
    finally:
        await asyncio.shield(_end(acquiring, gone))


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of some work, which is cancelled when the client leaves. Raises NotNowError then.

    aiohttp does not cancel the handler of a request whose client has left.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.connection.lost.wait())
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise NotNowError("the client has left")
        return working.result()
    finally:
        for task in (working, gone):
            task.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


async def _keep(stream: _Stream, handle: LeaseHandle, gone: asyncio.Future[str]) -> None:
    """Write the grant and signs of life until the client leaves or the lease ends."""
    await stream.write(dump_line(handle.grant))
    ended = asyncio.ensure_future(handle.wait_ended())
    try:
        while not ended.done() and not gone.done():
            await asyncio.wait({ended, gone}, timeout=BEAT_SEC, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done() and not gone.done():
                await stream.write(BEAT)
        # A client that ends its request waits for this line: the lease has then ended on the host.
        reason = ended.result() if ended.done() else RELEASED
        await handle.release()
        with contextlib.suppress(ConnectionError):
            await stream.write(dump_line({"ended": reason}))
    finally:
        ended.cancel()


async def _end(acquiring: asyncio.Future[LeaseHandle], gone: asyncio.Future[str]) -> None:
    """End what still runs. A grant that arrives during the cancellation is released."""
    gone.cancel()
    acquiring.cancel()
    results = await asyncio.gather(acquiring, gone, return_exceptions=True)
    if not isinstance(results[0], BaseException):
        await results[0].release()


def _error_of(acquiring: asyncio.Future[LeaseHandle]) -> GpumandError | None:
    error = None if acquiring.cancelled() else acquiring.exception()
    return error if isinstance(error, GpumandError) else None


async def client_gone(request: Request) -> str:
    """Wait until the client has left: "closed", or "lost" if it gave no sign of life for ``LOST_SEC``.

    A client that sends its body in chunks gives signs of life with newlines. It ends the lease with any other line, or
    with the end of the body. Of others only the connection is watched: the kernel ends it when the peer acknowledges
    nothing.
    """
    lost = asyncio.ensure_future(request.connection.lost.wait())
    reading = asyncio.ensure_future(_read_beats(request)) if request.is_stream else None
    waiting = {lost} if reading is None else {lost, reading}
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return reading.result() if reading is not None and reading.done() else "closed"
    finally:
        for task in waiting:
            task.cancel()


async def _read_beats(request: Request) -> str:
    data = request.rest
    try:
        while not data.strip():
            async with asyncio.timeout(LOST_SEC):
                data = await request.http.content.readany()
            if not data:
                break
        return "closed"
    except TimeoutError:
        return "lost"
    except Exception:  # the connection broke, or what arrived is not HTTP
        return "closed"


class _Stream:
    """The answer, which begins with the first write."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.response = StreamResponse(
            headers={"Content-Type": "application/x-ndjson", "Server": "gpumand-fleet", "Cache-Control": "no-store"}
        )
        self.response.force_close()

    async def write(self, data: bytes) -> None:
        """Write data. Raises ConnectionError, TimeoutError."""
        async with asyncio.timeout(LOST_SEC):
            if not self.response.prepared:
                await self.response.prepare(self._request.http)
            await self.response.write(data)

    async def refuse(self, error: GpumandError) -> StreamResponse:
        """Answer with an error: by its status, or as a line once the answer has begun."""
        if not self.response.prepared:
            return error_response(error)
        await self.write(dump_line(error_body(error)))
        return await self.finish()

    async def finish(self) -> StreamResponse:
        """End the answer."""
        if self.response.prepared:
            with contextlib.suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(LOST_SEC):
                    await self.response.write_eof()
        return self.response
