"""A stream of events, for ``watch``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpumand.client.errors import BusUnavailable, LimitsExceeded

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal
    from gpumand.client.values import Event

MAX_UNREAD = 4096
"""Maximum number of unread events; a slow reader gets an error instead of filling the memory."""


class Events:
    """An asynchronous iterator over events, in order, starting when it is created.

    Raises:
        LimitsExceeded: too many events were not read in time; the iteration has ended.
        BusUnavailable: the connection to the bus was lost; the iteration has ended.
        Mismatch: an event does not match the D-Bus interface; the iteration may continue.
    """

    def __init__(self) -> None:
        self._signals: asyncio.Queue[Signal | None] = asyncio.Queue()
        self._is_overrun = False
        self._lost_reason = ""

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        from gpumand.client.parsing import event_of

        while True:
            signal = await self._signals.get()
            if signal is None:
                self._signals.put_nowait(None)  # every further call raises the same error
                raise self._closing_error()
            if (event := event_of(signal)) is not None:
                return event

    def put(self, signal: Signal) -> None:
        """Internal: add a signal."""
        if self._signals.qsize() < MAX_UNREAD:
            self._signals.put_nowait(signal)
        elif not self._is_overrun:
            # The marker follows the stored events, so that these are still delivered before the error.
            self._is_overrun = True
            self._signals.put_nowait(None)

    def close(self, reason: str) -> None:
        """Internal: end the stream after the events that are in it."""
        self._lost_reason = reason
        self._signals.put_nowait(None)

    def _closing_error(self) -> Exception:
        if self._is_overrun:
            return LimitsExceeded(
                f"more than {MAX_UNREAD} events were not read in time. Read events faster, or watch again."
            )
        return BusUnavailable(self._lost_reason)
