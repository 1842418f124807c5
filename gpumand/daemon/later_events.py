"""Passes events on to components that only record them, after the replies of their iteration of the event loop.

History and metrics need not delay the reply to a client. While a single client takes its reply and sends its next call,
the daemon would wait anyway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from gpumand.domain.events import Event

log = logging.getLogger(__name__)

Receiver = Callable[[Event], None]


class LaterEvents:
    """Delivers events in their order, before any message that arrives later is read.

    Args:
        schedule: lets ``deliver`` be called soon, once the messages of this iteration are written.
        receivers: called with each event; what one of them raises is logged.
    """

    def __init__(self, schedule: Callable[[], None], *receivers: Receiver) -> None:
        self._schedule, self._receivers = schedule, receivers
        self._events: list[Event] = []

    def publish(self, event: Event) -> None:
        """Deliver an event soon."""
        if not self._events:
            self._schedule()
        self._events.append(event)

    def deliver(self) -> None:
        """Deliver all events that have not been delivered yet."""
        events, self._events = self._events, []
        for event in events:
            for receive in self._receivers:
                try:
                    receive(event)
                except Exception:
                    log.exception("%s could not be recorded", type(event).__name__)
