"""What the gateway measures: an observer that other modules call, so that metrics can be exported or left out."""

from __future__ import annotations

from typing import Protocol

from gpumand.gateway.requests import Entry


class Metrics(Protocol):
    """Observes the gateway. No method may raise or block."""

    def request_ended(self, entry: Entry) -> None:
        """A request has ended; 499 as status means that its client left."""

    def turn_opened(self, consumer: str) -> None:
        """A lease was granted."""


class NoMetrics:
    """Measures nothing."""

    def request_ended(self, entry: Entry) -> None:
        """Ignore it."""

    def turn_opened(self, consumer: str) -> None:
        """Ignore it."""
