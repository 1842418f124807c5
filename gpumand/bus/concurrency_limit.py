"""Limits how many operations run at once, in total and for each user."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gpumand.domain.errors import LimitsExceeded


@dataclass(slots=True)
class _UserQueue:
    """The operations of one user.

    Attributes:
        semaphore: limits how many of them run at once.
        length: how many there are, running or waiting.
    """

    semaphore: asyncio.Semaphore
    length: int = 0


class ConcurrencyLimiter:
    """Limits concurrent operations so that one user with many of them cannot block the others.

    Args:
        total_limit: how many operations may run at once.
        limit_per_user: how many operations of one user may run at once; less than ``total_limit``.
        queue_limit_per_user: how many operations of one user may be waiting or running.
    """

    def __init__(self, total_limit: int, limit_per_user: int, queue_limit_per_user: int) -> None:
        self._total = asyncio.Semaphore(total_limit)
        self._limit_per_user = limit_per_user
        self._queue_limit_per_user = queue_limit_per_user
        self._queues: dict[int, _UserQueue] = {}

    @asynccontextmanager
    async def slot(self, uid: int) -> AsyncIterator[None]:
        """Wait for a free slot and hold it. Raises LimitsExceeded if this user already has too many operations."""
        queue = self._queues.setdefault(uid, _UserQueue(asyncio.Semaphore(self._limit_per_user)))
        if queue.length >= self._queue_limit_per_user:
            raise LimitsExceeded(f"uid {uid} already has {queue.length} waiting calls, which is the limit")
        queue.length += 1
        try:
            # The user's semaphore first: operations that wait for their own user must not occupy the shared slots.
            async with queue.semaphore, self._total:
                yield
        finally:
            queue.length -= 1
            if not queue.length:
                del self._queues[uid]
