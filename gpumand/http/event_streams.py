"""Server-sent events: what the Manager tells as signals, for any number of readers up to a cap.

A reader that does not keep up is cut off: nothing and nobody ever waits for one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from gpumand.bus.marshalling import eviction_body, text
from gpumand.bus.variants import unwrap
from gpumand.domain.events import Event, EvictionFailed, EvictionOccurred, LeaseEnded, LeaseGranted
from gpumand.http.limits import KEEPALIVE_SEC, MAX_QUEUED_EVENTS, MAX_READERS, MAX_READERS_PER_PEER

HELLO = b": gpumand tells what happens from now on\n\n"
KEEPALIVE = b": still here\n\n"
_EVICTION = ("consumer", "device", "freed_mib", "method", "trigger", "details")


class TooManyReaders(Exception):
    """The message says whose readers are too many."""


def signal_of(event: Event) -> tuple[str, dict[str, Any]] | None:
    """The signal by which the bus tells an event: its name, and its arguments by their names; None = it tells none."""
    if isinstance(event, EvictionOccurred | EvictionFailed):
        return type(event).__name__, dict(zip(_EVICTION, unwrap(eviction_body(event.report)), strict=True))
    if isinstance(event, LeaseGranted):
        return "LeaseGranted", {"lease": event.lease.id, "consumer": text(event.lease.consumer)}
    if isinstance(event, LeaseEnded):
        told = {"lease": event.lease.id, "consumer": text(event.lease.consumer), "reason": event.reason.value}
        return "LeaseEnded", told
    return None


def block(name: str, fields: dict[str, Any]) -> bytes:
    """An event as it goes over the wire; JSON in ASCII has no line ends of its own."""
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n".encode("ascii")


class Reader:
    """What waits for one reader.

    Args:
        peer: whose it is.
        cut_off: called once, when it has not kept up.
    """

    def __init__(self, peer: str, cut_off: Callable[[], None]) -> None:
        self.peer = peer
        self._cut_off = cut_off
        self._blocks: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, told: bytes) -> None:
        """Have it told, or cut the reader off where too much waits already."""
        if self._closed:
            return
        if len(self._blocks) >= MAX_QUEUED_EVENTS:
            self.close()
            self._cut_off()
            return
        self._blocks.append(told)
        self._changed.set()

    def close(self) -> None:
        """Nothing more is told."""
        self._closed = True
        self._changed.set()

    async def next(self) -> bytes:
        """All that waits, or a sign of life when nothing does for long; empty when it is closed."""
        try:
            async with asyncio.timeout(KEEPALIVE_SEC):
                await self._changed.wait()
        except TimeoutError:
            return KEEPALIVE
        told = b"".join(self._blocks)
        self._blocks.clear()
        if not self._closed:
            self._changed.clear()
        return told


class Streams:
    """All readers."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()

    def __len__(self) -> int:
        return len(self._readers)

    def join(self, peer: str, cut_off: Callable[[], None]) -> Reader:
        """One more reader. Raises TooManyReaders."""
        if len(self._readers) >= MAX_READERS:
            raise TooManyReaders(f"{MAX_READERS} readers follow the events; more are not allowed")
        if Counter(reader.peer for reader in self._readers)[peer] >= MAX_READERS_PER_PEER:
            raise TooManyReaders(f"{MAX_READERS_PER_PEER} readers of {peer} follow the events; more are not allowed")
        reader = Reader(peer, cut_off)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """It reads no more."""
        reader.close()
        self._readers.discard(reader)

    def publish(self, event: Event) -> None:
        """Tell all readers, synchronously and in order."""
        told = signal_of(event) if self._readers else None
        if told is not None:
            data = block(*told)
            for reader in tuple(self._readers):
                reader.put(data)

    def close(self) -> None:
        """End all streams; what waits for a reader is still sent."""
        for reader in tuple(self._readers):
            reader.close()
