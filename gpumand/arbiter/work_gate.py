"""Whether anything may be begun or granted at the moment."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class WorkGate:
    """Two ways to say "not now", each with its one line; "" where it is not said.

    Attributes:
        held: nothing is begun or granted for a while; who asks waits, and is told this.
        refused: nothing is begun or granted any more; who asks is refused with this.
    """

    held: str = ""
    refused: str = ""

    @property
    def is_open(self) -> bool:
        """Whether things may be begun that nobody waits for."""
        return not self.held and not self.refused
