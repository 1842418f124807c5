"""The body of a request as the client sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import HttpVersion11

from gpumand.gateway import web
from gpumand.gateway.incoming_body import BadBody
from gpumand.gateway.refusals import Refused, refused

BODY_STALL_SEC = 60.0
"""Seconds that a client may stop sending its body while it holds a lease, as in nginx."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


_ANSWERED = "gpumand.continue"
"""Key of aiohttp's request: the client was asked for its body already."""


async def answer_expect(request: web.BaseRequest) -> None:
    """Ask a client that waits for permission to send its body, once."""
    is_expected = request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11
    if is_expected and _ANSWERED not in request and not request.content.is_eof():
        request[_ANSWERED] = True
        await request.writer.write(_CONTINUE)
        # These bytes are no part of the answer, whose absence shows that an error may still be answered.
        request.writer.output_size = 0


async def body_of(request: web.BaseRequest) -> AsyncIterator[bytes]:
    """The body of a request as it arrives. Raises Refused if the client stops sending, or sends an invalid body."""
    # The end of a body that breaks off is an exception here, so the consumer never takes it for complete. A client that
    # stops sending must not keep its lease.
    while True:
        try:
            async with asyncio.timeout(BODY_STALL_SEC):
                chunk = await request.content.readany()
        except BadBody:
            raise bad_body() from None
        except TimeoutError:
            # As a TimeoutError it would count as a server that does not answer.
            raise refused(408, "slow_body", f"The client has sent nothing for {BODY_STALL_SEC:g} s.") from None
        except Exception:
            # aiohttp raises errors of several types for bodies that break off or are framed in a wrong way.
            raise bad_body() from None
        if not chunk:
            return
        yield chunk


def bad_body() -> Refused:
    """The refusal of a body that breaks off, or whose framing is invalid."""
    return refused(400, "invalid_body", "The body of the request ended early, or is not validly encoded in chunks.")
