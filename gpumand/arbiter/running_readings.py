"""Counts the readings that are running, so that the driver is closed after the last of them and not before.

A source may do something else before it calls the driver, such as looking for further drivers. A reading that began
before the driver was closed would then open it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class RunningReadings:
    """The readings that are running at the moment."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[None]] = set()

    @contextmanager
    def one(self) -> Iterator[None]:
        """A reading runs during this context."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._running.add(ended)
        try:
            yield
        finally:
            self._running.discard(ended)
            ended.cancel()

    async def ended(self) -> None:
        """Wait for the end of the readings that are running now. A source limits the duration of each."""
        if self._running:
            await asyncio.wait(set(self._running))
