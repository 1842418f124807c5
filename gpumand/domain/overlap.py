"""Does loading beside a lease slow down who works? Measured, so that it is done only where it costs little."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpumand.domain.consumer import Overlap, Policy, SchedulerSettings

WEIGHT = 0.2
LEAST_COUNT = 5
"""So many leases with a load beside them are looked at before anything is concluded."""

MOST_SLOWDOWN = 1.2
"""Working a fifth longer costs what loading early gains: from there on it is not worth it."""

TRY_AGAIN = 20
"""Where it was not worth it, every so many-th opportunity is taken all the same: drivers and disks change."""

_BOUNDS = (0.25, 4.0)
"""A lease that stands four times as long as usual had more to do."""


@dataclass(frozen=True, slots=True)
class Slowdown:
    """How much longer leases stand that had a load beside them.

    Attributes:
        factor: moving mean of how long they stood by how long such leases stand otherwise; 1 = as long.
        count: how many were seen.
        refused: opportunities let go since the last one that was taken.
    """

    factor: float = 1.0
    count: int = 0
    refused: int = 0

    def observed(self, seconds: float, usual_sec: float) -> Slowdown:
        """With one more lease that had a load beside it.

        Args:
            seconds: how long it stood.
            usual_sec: how long leases on this consumer stand without; 0 = not known, which says nothing.
        """
        if usual_sec <= 0.0 or seconds < 0.0:
            return self
        low, high = _BOUNDS
        factor = min(high, max(low, seconds / usual_sec))
        weight = max(WEIGHT, 1.0 / (self.count + 1))
        return replace(self, factor=self.factor + weight * (factor - self.factor), count=self.count + 1)

    @property
    def is_worth_it(self) -> bool:
        """Whether loading beside leases is known, or still to be found out, to cost little."""
        return self.count < LEAST_COUNT or self.factor <= MOST_SLOWDOWN or self.refused >= TRY_AGAIN

    def asked(self) -> Slowdown:
        """After an opportunity came up."""
        return replace(self, refused=0 if self.is_worth_it else self.refused + 1)


def may_overlap(settings: SchedulerSettings, slowdown: Slowdown) -> bool:
    """Whether loads may begin beside leases, by configuration and by what was measured."""
    if settings.policy is not Policy.ADAPTIVE or settings.overlap is Overlap.OFF:
        return False
    return settings.overlap is Overlap.ON or slowdown.is_worth_it
