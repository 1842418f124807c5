"""The work gate pauses or stops new work while the host suspends or shuts down."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class WorkGate:
    """Two reasons to start no new work, each as one line for clients; "" = the reason does not apply.

    Attributes:
        held: a temporary reason: nothing is started or granted, and requests wait with this text.
        refused: a final reason: requests are refused with this text.
    """

    held: str = ""
    refused: str = ""

    @property
    def is_open(self) -> bool:
        """Whether background work such as evicting idle consumers may start."""
        return not self.held and not self.refused
