"""The work gate pauses or stops new work while the host suspends or shuts down, or the driver is released."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class WorkGate:
    """Reasons to start no new work, each as one line for clients; "" = the reason does not apply.

    Attributes:
        suspending: the host is suspending or resuming.
        driver_released: an administrator has the GPU driver.
        refused: a final reason: requests are refused with this text.
    """

    suspending: str = ""
    driver_released: str = ""
    refused: str = ""

    @property
    def held(self) -> str:
        """The temporary reason: nothing is started or granted, and requests wait with this text."""
        return self.suspending or self.driver_released

    @property
    def is_open(self) -> bool:
        """Whether background work such as evicting idle consumers may start."""
        return not self.held and not self.refused
