"""When a reading began, and what is left of a sample when no figures could be read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from gpumand.domain.device import Sample
from gpumand.ports import Clock


@dataclass(frozen=True, slots=True)
class ReadingTime:
    """One moment.

    Attributes:
        monotonic: seconds, for decisions.
        realtime_usec: CLOCK_REALTIME microseconds, for people.
    """

    monotonic: float
    realtime_usec: int

    @classmethod
    def now(cls, clock: Clock) -> ReadingTime:
        """The present moment."""
        return cls(clock.monotonic(), clock.realtime_usec())


def without_figures(sample: Sample, error: str, stamp: ReadingTime) -> Sample:
    """The same device when nothing can be read of it: known by name, every figure unknown.

    Whether it was lost is a figure too: a library that fails says nothing about one device.
    """
    return replace(
        sample,
        total_mib=None,
        used_mib=None,
        free_mib=None,
        processes=(),
        attributed=False,
        attributable=frozenset(),
        lost=False,
        taken_at=stamp.monotonic,
        sampled_usec=stamp.realtime_usec,
        error=error,
    )
