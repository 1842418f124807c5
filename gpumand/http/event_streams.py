"""Server-sent events: distributes the signals of the D-Bus Manager interface to HTTP clients.

A reader that does not keep up is disconnected, so that the daemon never waits for a reader.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from gpumand.bus.marshalling import eviction_body
from gpumand.bus.variants import unwrap
from gpumand.bus.wire_text import text
from gpumand.domain.events import (
    Event,
    EvictionDeferred,
    EvictionFailed,
    EvictionOccurred,
    LeaseDegraded,
    LeaseEnded,
    LeaseGranted,
    LeaseRestored,
    LeaseReturned,
    LeaseWanted,
    LeaseYielded,
)
from gpumand.http.limits import KEEPALIVE_SEC, MAX_QUEUED_EVENTS, MAX_READERS, MAX_READERS_PER_PEER

HELLO = b": gpumand events from now on\n\n"
KEEPALIVE = b": keep-alive\n\n"
_EVICTION = ("consumer", "device", "freed_mib", "method", "trigger", "details")


class TooManyReaders(Exception):
    """The limit of event streams is reached; the message says whether in total or for one client."""


def signal_of(event: Event) -> tuple[str, dict[str, Any]] | None:
    """Return the D-Bus signal of an event as its name and its arguments by name; None for an event without signal."""
    if isinstance(event, EvictionOccurred | EvictionFailed | EvictionDeferred):
        return type(event).__name__, dict(zip(_EVICTION, unwrap(eviction_body(event.report)), strict=True))
    if isinstance(event, LeaseGranted):
        return "LeaseGranted", {"lease": event.lease.id, "consumer": text(event.lease.public_consumer)}
    if isinstance(event, LeaseDegraded | LeaseRestored | LeaseYielded | LeaseReturned):
        fields = {"lease": event.lease.id, "consumer": text(event.lease.public_consumer)}
        reason = {"reason": text(event.lease.degraded)} if isinstance(event, LeaseDegraded) else {}
        return type(event).__name__, fields | reason
    if isinstance(event, LeaseWanted):
        return "LeaseWanted", {"lease": event.lease.id, "by": text(event.by), "since_usec": event.since_usec}
    if isinstance(event, LeaseEnded):
        fields = {"lease": event.lease.id, "consumer": text(event.lease.public_consumer), "reason": event.reason.value}
        return "LeaseEnded", fields
    return None


def format_event(name: str, fields: dict[str, Any]) -> bytes:
    """Return an event in the format of server-sent events."""
    # The field needs no splitting into lines, because json.dumps escapes line breaks.
    return f"event: {name}\ndata: {json.dumps(fields)}\n\n".encode("ascii")


class Reader:
    """The queue of one reader of the event stream.

    Args:
        peer: the client, as in ``Connection.peer``.
        disconnect: called once if the reader does not keep up.
    """

    def __init__(self, peer: str, disconnect: Callable[[], None]) -> None:
        self.peer = peer
        self._disconnect = disconnect
        self._blocks: deque[bytes] = deque()
        self._changed = asyncio.Event()
        self._closed = False

    def put(self, data: bytes) -> None:
        """Queue an event, or disconnect the reader if its queue is full."""
        if self._closed:
            return
        if len(self._blocks) >= MAX_QUEUED_EVENTS:
            self.close()
            self._disconnect()
            return
        self._blocks.append(data)
        self._changed.set()

    def close(self) -> None:
        """Accept no further events; queued ones can still be read."""
        self._closed = True
        self._changed.set()

    async def next(self) -> bytes:
        """Wait for events and return all that are queued; a keep-alive after a long wait; b"" after ``close``."""
        try:
            async with asyncio.timeout(KEEPALIVE_SEC):
                await self._changed.wait()
        except TimeoutError:
            return KEEPALIVE
        data = b"".join(self._blocks)
        self._blocks.clear()
        # After close the event stays set, so that the next call returns b"" at once.
        if not self._closed:
            self._changed.clear()
        return data


class EventStreams:
    """All readers of the event stream."""

    def __init__(self) -> None:
        self._readers: set[Reader] = set()

    def __len__(self) -> int:
        return len(self._readers)

    def join(self, peer: str, disconnect: Callable[[], None]) -> Reader:
        """Add a reader. Raises TooManyReaders."""
        if len(self._readers) >= MAX_READERS:
            raise TooManyReaders(f"too many event streams: {MAX_READERS} are open, the maximum. Close one")
        if Counter(reader.peer for reader in self._readers)[peer] >= MAX_READERS_PER_PEER:
            limit = f"{MAX_READERS_PER_PEER} of {peer} are open, the maximum for one client"
            raise TooManyReaders(f"too many event streams: {limit}. Close one")
        reader = Reader(peer, disconnect)
        self._readers.add(reader)
        return reader

    def leave(self, reader: Reader) -> None:
        """Remove a reader."""
        reader.close()
        self._readers.discard(reader)

    def publish(self, event: Event) -> None:
        """Queue an event for all readers; returns at once."""
        signal = signal_of(event) if self._readers else None
        if signal is not None:
            data = format_event(*signal)
            # A copy, because the disconnect callback may remove readers.
            for reader in tuple(self._readers):
                reader.put(data)

    def close(self) -> None:
        """End all streams after their queued events have been sent."""
        for reader in tuple(self._readers):
            reader.close()
