"""Waiting with a time limit on the injected clock, so that tests control the time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any

from gpumand.ports import Clock


async def finished_within(clock: Clock, awaitable: Awaitable[Any], seconds: float) -> bool:
    """Wait for an awaitable with a time limit.

    Args:
        clock: the clock that measures the time.
        awaitable: a future, which continues after the time limit, or a coroutine, which is cancelled then.
        seconds: the time limit; 0 or less = check once.

    Returns:
        Whether it ended in time. Its result or exception is not raised here; read it from the future.
    """
    future = asyncio.ensure_future(awaitable)
    timer: asyncio.Future[Any] = asyncio.ensure_future(clock.sleep(max(0.0, seconds)))
    try:
        await asyncio.wait([future, timer], return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        # Only a task that this function created for a coroutine belongs to it; others may wait for a future too.
        if future is not awaitable:
            future.cancel()
    return future.done() and not (future is not awaitable and future.cancelled())


async def succeeded_within(clock: Clock, work: Coroutine[Any, Any, object], seconds: float) -> bool:
    """Run a coroutine with a time limit, at which it is cancelled; returns whether it ended in time.

    Args:
        clock: the clock that measures the time.
        work: the coroutine. Its exception is raised.
        seconds: the time limit.
    """
    task = asyncio.ensure_future(work)
    try:
        if not await finished_within(clock, task, seconds):
            return False
        task.result()
        return True
    finally:
        task.cancel()  # no effect on one that is done
