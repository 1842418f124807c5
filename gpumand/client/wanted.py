"""Other requests that wait for the end of a lease, as its holder learns of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpumand.client.loop_thread import LoopThread

log = logging.getLogger(__name__)

MAX_NAMES = 64
"""Maximum number of different consumers to remember."""


class Wanted:
    """Whether requests wait for the end of a lease; ``await held.wanted.wait()``.

    Nothing happens to the lease: its holder decides whether to finish early. A request that has stopped waiting is not
    taken back.
    """

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._by: dict[str, None] = {}
        self._callbacks: list[Callable[[str], None]] = []

    @property
    def by(self) -> tuple[str, ...]:
        """The consumers that were requested, in order; "" stands for a reservation."""
        return tuple(self._by)

    def is_set(self) -> bool:
        """Whether any request waits, or has waited, for the end of the lease."""
        return self._event.is_set()

    async def wait(self) -> str:
        """Wait until a request waits for the end of the lease; returns the consumer that the first one is for."""
        await self._event.wait()
        return next(iter(self._by))

    def on_request(self, callback: Callable[[str], None]) -> None:
        """Call a function with the requested consumer for each request that waits for the end of the lease."""
        self._callbacks.append(callback)

    def add(self, by: str) -> None:
        """Internal: record a request for a consumer."""
        if len(self._by) < MAX_NAMES:
            self._by.setdefault(by)
        self._event.set()
        for callback in tuple(self._callbacks):
            try:
                callback(by)
            except Exception:
                log.exception("a callback for a wanted lease failed")


class SyncWanted:
    """Whether requests wait for the end of a lease; see ``Wanted``."""

    def __init__(self, wanted: Wanted, thread: LoopThread) -> None:
        """Internal: ``lease_sync`` creates it."""
        self._wanted = wanted
        self._thread = thread

    @property
    def by(self) -> tuple[str, ...]:
        """The consumers that were requested, in order; "" stands for a reservation."""
        return self._wanted.by

    def is_set(self) -> bool:
        """Whether any request waits, or has waited, for the end of the lease."""
        return self._wanted.is_set()

    def wait(self, timeout_sec: float | None = None) -> bool:
        """Wait until a request waits for the end of the lease; returns whether one does before the timeout expires."""
        if not self.is_set():
            self._thread.run(self._wait(timeout_sec))
        return self.is_set()

    def on_request(self, callback: Callable[[str], None]) -> None:
        """Call a function, in a thread of the client, with the consumer of each request that waits for the lease."""
        self._wanted.on_request(callback)

    async def _wait(self, timeout_sec: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_sec):
                await self._wanted.wait()
