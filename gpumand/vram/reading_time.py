"""The time of a reading, and samples of devices that could not be read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from gpumand.domain.device import Reading, Sample
from gpumand.domain.telemetry import NO_TELEMETRY
from gpumand.ports import Clock


@dataclass(frozen=True, slots=True)
class ReadingTime:
    """The time at which a reading started, by two clocks.

    Attributes:
        monotonic: seconds of the monotonic clock, for decisions.
        realtime_usec: CLOCK_REALTIME in microseconds, for display.
    """

    monotonic: float
    realtime_usec: int

    @classmethod
    def now(cls, clock: Clock) -> ReadingTime:
        """Return the current time."""
        return cls(clock.monotonic(), clock.realtime_usec())


def without_readings(sample: Sample, error: str, reading_time: ReadingTime) -> Sample:
    """Return a sample of the same device in which every reading is unknown.

    Args:
        sample: an earlier sample of the device, for index, UUID and name.
        error: why the device could not be read, in one line.
        reading_time: the time of the failed reading.
    """
    # ``lost`` is reset too: a failure of the whole library says nothing about a single device.
    return replace(
        sample,
        total_mib=None,
        used_mib=None,
        free_mib=None,
        processes=(),
        attributed=False,
        attributable=frozenset(),
        blind=frozenset(),
        attribution="",
        asleep=False,
        lost=False,
        telemetry=NO_TELEMETRY,
        taken_at=reading_time.monotonic,
        sampled_usec=reading_time.realtime_usec,
        error=error,
    )


def failed_reading(last_samples: Iterable[Sample], error: str, clock: Clock) -> Reading:
    """Return a reading of a whole source that has failed.

    Args:
        last_samples: the last samples of its devices, which stay listed: configuration that refers to them stays valid.
        error: why nothing could be read, in one line.
        clock: current time.
    """
    reading_time = ReadingTime.now(clock)
    return Reading(tuple(without_readings(sample, error, reading_time) for sample in last_samples), error)
