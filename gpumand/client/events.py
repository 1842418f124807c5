"""What happens, as it happens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gpumand.client.errors import BusUnavailable, LimitsExceeded

if TYPE_CHECKING:
    from gpumand.bus.connection import Signal
    from gpumand.client.values import Event

MOST_UNREAD = 4096
"""Who reads slower than things happen is told so, and does not fill the memory."""


class Events:
    """An asynchronous iterator over events, in order, from the moment on in which it was made.

    Raises, instead of going on:
        LimitsExceeded: too many were not read in time.
        BusUnavailable: the bus is gone.
        Mismatch: an event is not as the interface says.
    """

    def __init__(self) -> None:
        self._signals: asyncio.Queue[Signal | None] = asyncio.Queue()
        self._overrun = False
        self._lost = ""

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> Event:
        from gpumand.client.parsing import event_of

        while True:
            signal = await self._signals.get()
            if signal is None:
                self._signals.put_nowait(None)  # so it will be for whoever asks again
                raise self._end()
            if (event := event_of(signal)) is not None:
                return event

    def hear(self, signal: Signal) -> None:
        """Take one in. For the client itself."""
        if self._signals.qsize() < MOST_UNREAD:
            self._signals.put_nowait(signal)
        elif not self._overrun:
            self._overrun = True
            self._signals.put_nowait(None)

    def lose(self, reason: str) -> None:
        """Nothing more will come. For the client itself."""
        self._lost = reason
        self._signals.put_nowait(None)

    def _end(self) -> Exception:
        if self._overrun:
            return LimitsExceeded(f"more than {MOST_UNREAD} events were not read in time")
        return BusUnavailable(self._lost)
