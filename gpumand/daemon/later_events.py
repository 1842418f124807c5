"""Passes events on to those who only record them, after the replies of this turn of the event loop.

History and metrics need not delay the reply to a client. While a single client takes its reply and sends its next call,
the daemon would wait anyway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gpumand.domain.events import Event

log = logging.getLogger(__name__)

Receiver = Callable[[Event], None]


class LaterEvents:
    """Delivers events in their order, at the end of the next turn of the event loop.

    Args:
        receivers: called with each event; what one of them raises is logged.
    """

    def __init__(self, *receivers: Receiver) -> None:
        self._receivers = receivers
        self._loop = asyncio.get_running_loop()
        self._events: list[Event] = []

    def publish(self, event: Event) -> None:
        """Deliver an event soon: before any message that arrives later is read."""
        if not self._events:
            # A timer that is due runs after all that is ready in its turn, such as the write of this turn's messages.
            self._loop.call_later(0, self.deliver)
        self._events.append(event)

    def deliver(self) -> None:
        """Deliver all events that have not been delivered yet, now."""
        events, self._events = self._events, []
        for event in events:
            for receive in self._receivers:
                try:
                    receive(event)
                except Exception:
                    log.exception("%s could not be recorded", type(event).__name__)
