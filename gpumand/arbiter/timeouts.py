"""Waiting with a limit, by the clock that everything here goes by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from gpumand.ports import Clock


async def ended(clock: Clock, what: Awaitable[Any], seconds: float) -> bool:
    """Wait for something for at most so long; whether it ended. A future goes on when time is up, a coroutine does not.

    Nothing is raised of what it ended with.
    """
    waited = asyncio.ensure_future(what)
    timer: asyncio.Future[Any] = asyncio.ensure_future(clock.sleep(max(0.0, seconds)))
    try:
        await asyncio.wait([waited, timer], return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        if waited is not what:
            waited.cancel()
    return waited.done() and not (waited is not what and waited.cancelled())
