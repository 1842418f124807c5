"""A copy of gpumand's status, which is refreshed when it is needed and kept while gpumand is absent."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from datetime import UTC, datetime
from typing import Protocol

from gpumand.client.errors import GpumandError
from gpumand.client.values import Consumer, Status, WaitingRequest
from gpumand.gateway.refusals import BACKOFF_RETRY_SEC

log = logging.getLogger(__name__)

FRESH_SEC = 2.0
"""How old the copy may be for a request that only looks."""

CURRENT_SEC = 0.1
"""How old the copy may be where it is shown to a client that waits."""

ABSENT_SEC = 1.0
"""How long a failed question is not repeated."""


STALE_SEC = 0.5
"""How long a request waits for a fresh copy where there is an older one."""

LEARNED_SEC = 30.0
"""How long a learned load time is kept."""


class StatusSource(Protocol):
    """Answers with a snapshot."""

    async def status(self) -> Status:
        """One consistent snapshot. Raises GpumandError."""

    async def usual_load_sec(self, consumer: str) -> float | None:
        """How long a load of a consumer usually takes; None = unknown. Raises GpumandError."""


class StatusView:
    """A copy of the status, shared by all requests.

    Args:
        source: gpumand.
    """

    def __init__(self, source: StatusSource) -> None:
        self._source = source
        self._status: Status | None = None
        self._read_at = self._failed_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._load_sec: dict[str, tuple[float, float | None]] = {}
        self._clock = asyncio.get_running_loop().time

    async def get(self, max_age_sec: float = FRESH_SEC) -> Status | None:
        """The status, at most this old if gpumand can be reached; None if it could never be reached."""
        if self._clock() - self._read_at > max_age_sec and self._clock() - self._failed_at > ABSENT_SEC:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read())
            # Requests share the call, and one that is cancelled does not end it for the others. A daemon that hangs
            # must not delay them all, so that an older copy is used after a moment.
            await asyncio.wait({self._reading}, timeout=STALE_SEC if self._status else None)
        return self._status

    async def consumer(self, name: str, max_age_sec: float = FRESH_SEC) -> Consumer | None:
        """A consumer; None if it is not configured, or if gpumand could never be reached."""
        status = await self.get(max_age_sec)
        return status.consumer(name) if status else None

    async def names(self) -> tuple[str, ...]:
        """The names of all consumers, as far as they are known."""
        status = await self.get()
        return tuple(one.name for one in status.consumers) if status else ()

    async def place(self, consumer: str) -> tuple[WaitingRequest | None, int]:
        """The first waiting request for a consumer, if any, and the number of all waiting requests."""
        status = await self.get(CURRENT_SEC)
        queue = status.queue if status else ()
        return next((one for one in queue if one.consumer == consumer), None), len(queue)

    async def usual_load_sec(self, consumer: str) -> float | None:
        """How long a load of a consumer usually takes; None = unknown."""
        read_at, seconds = self._load_sec.get(consumer, (float("-inf"), None))
        if self._clock() - read_at > LEARNED_SEC:
            with contextlib.suppress(GpumandError):
                seconds = await self._source.usual_load_sec(consumer)
            self._load_sec[consumer] = self._clock(), seconds
        return seconds

    async def pause_sec(self, consumer: str) -> int:
        """Seconds until a load of a consumer is tried again, after one that has just failed."""
        found = await self.consumer(consumer, 0.0)
        if found is None or found.retry_at is None:
            return BACKOFF_RETRY_SEC
        return max(1, math.ceil((found.retry_at - datetime.now(UTC)).total_seconds()))

    async def _read(self) -> None:
        try:
            self._status = await self._source.status()
            self._read_at = self._clock()
        except GpumandError as error:
            log.debug("the status cannot be read: %s", error.message)
            self._failed_at = self._clock()
        finally:
            self._reading = None
