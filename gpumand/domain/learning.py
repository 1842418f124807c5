"""Learned times of a consumer: how long it takes to load and to unload, how long it is leased and how long it idles.

The values are frozen: the observer of a load, an unload, the end of a lease or a request keeps the new value that the
``observe_…`` method returns, and may store it as a record. None of the times is configured, so every estimate has a
default for the time before the first observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gpumand.domain.assumed_times import DEFAULT_HOLD_SEC, DEFAULT_UNLOAD_SEC, Start, default_load_sec
from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.moving_average import update_mean
from gpumand.domain.reuse_prediction import BUCKETS, IdleTimeHistogram

MAX_SEC = 7 * 86400.0
"""Longer durations are ignored: a week is more likely a clock that jumped than a load."""

MAX_COUNT = 10**9


@dataclass(frozen=True, slots=True)
class Duration:
    """Statistics of the observed durations of one kind, in seconds.

    Attributes:
        mean_sec: moving mean, see ``moving_average``.
        max_sec: the longest duration.
        count: number of observations.
    """

    mean_sec: float = 0.0
    max_sec: float = 0.0
    count: int = 0

    def with_observation(self, seconds: float) -> Duration:
        """A copy with one more observation; an invalid one (negative, longer than a week, NaN) is ignored."""
        if not 0.0 <= seconds <= MAX_SEC:
            return self
        mean_sec = update_mean(self.mean_sec if self.count else None, seconds)
        return Duration(mean_sec, max(self.max_sec, seconds), min(MAX_COUNT, self.count + 1))


NOTHING = Duration()


@dataclass(frozen=True)  # without slots, for copy_with
class LearnedTimes:
    """The learned times of one consumer.

    Attributes:
        loads: durations of loads, by the state from which they started.
        unloads: durations of evictions, by method.
        hold: durations of leases.
        idle: times from the end of a lease until the next request.
    """

    loads: Mapping[Start, Duration] = field(default_factory=dict)
    unloads: Mapping[EvictionMethod, Duration] = field(default_factory=dict)
    hold: Duration = NOTHING
    idle: IdleTimeHistogram = field(default_factory=IdleTimeHistogram)

    # -- observing -----------------------------------------------------------------------------------------------

    def observe_load(self, seconds: float, start: Start = Start.COLD) -> LearnedTimes:
        """A copy with one more successful load, in seconds."""
        return replace(self, loads={**self.loads, start: self.loads.get(start, NOTHING).with_observation(seconds)})

    def observe_unload(self, method: EvictionMethod, seconds: float) -> LearnedTimes:
        """A copy with one more eviction that freed the memory by this method, in seconds."""
        return replace(
            self, unloads={**self.unloads, method: self.unloads.get(method, NOTHING).with_observation(seconds)}
        )

    def observe_hold(self, seconds: float) -> LearnedTimes:
        """A copy with one more ended lease, in seconds."""
        return copy_with(self, hold=self.hold.with_observation(seconds))

    def observe_idle(self, seconds: float) -> LearnedTimes:
        """A copy with one more idle time: seconds without a lease and without a waiting request."""
        return copy_with(self, idle=self.idle.with_observation(seconds))

    # -- estimates -----------------------------------------------------------------------------------------------

    def load_sec(self, footprint_mib: int, start: Start = Start.COLD) -> float:
        """Expected duration of a load in seconds."""
        seen = self.loads.get(start, NOTHING)
        return seen.mean_sec if seen.count else default_load_sec(footprint_mib, start)

    def longest_load_sec(self, footprint_mib: int) -> float:
        """Expected duration of a load in seconds, from whichever state loads are known to take longest."""
        seen = [duration.mean_sec for duration in self.loads.values() if duration.count]
        return max(seen) if seen else default_load_sec(footprint_mib, Start.COLD)

    def unload_sec(self, method: EvictionMethod) -> float:
        """Expected duration of an eviction by this method in seconds."""
        seen = self.unloads.get(method, NOTHING)
        return seen.mean_sec if seen.count else DEFAULT_UNLOAD_SEC

    def hold_sec(self) -> float:
        """Expected duration of a lease in seconds."""
        return self.hold.mean_sec if self.hold.count else DEFAULT_HOLD_SEC

    # -- storage -------------------------------------------------------------------------------------------------

    def to_record(self) -> dict[str, Any]:
        """The learned times as values that JSON can express."""
        return {
            "loads": {str(start): _duration_record(one) for start, one in self.loads.items()},
            "unloads": {str(method): _duration_record(one) for method, one in self.unloads.items()},
            "hold": _duration_record(self.hold),
            "idle": list(self.idle.counts),
        }

    @classmethod
    def from_record(cls, record: Any) -> LearnedTimes:
        """Read a record made by ``to_record``; missing keys mean nothing was learned, unknown keys are ignored.

        Raises:
            ValueError: when the record is malformed; the message is one line.
        """
        if not isinstance(record, dict):
            raise ValueError("a record must be an object")
        return cls(
            loads={Start(key): _parse_duration(value) for key, value in _known_entries(record, "loads", Start)},
            unloads={
                EvictionMethod(key): _parse_duration(value)
                for key, value in _known_entries(record, "unloads", EvictionMethod)
            },
            hold=_parse_duration(record.get("hold", [0.0, 0.0, 0])),
            idle=_parse_idle(record.get("idle", [0.0] * BUCKETS)),
        )


def _duration_record(one: Duration) -> list[float]:
    return [one.mean_sec, one.max_sec, one.count]


def _known_entries(record: dict[Any, Any], name: str, keys: type[StrEnum]) -> list[tuple[str, Any]]:
    """Entries whose key this version knows; another version may have written other keys."""
    table = record.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{name} must be an object")
    known = {str(key) for key in keys}
    return [(key, value) for key, value in table.items() if key in known]


def _parse_duration(value: Any) -> Duration:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("a duration must be a list of mean, longest and count")
    mean_sec, max_sec, count = map(_number, value, (MAX_SEC, MAX_SEC, float(MAX_COUNT)))
    if count != int(count) or mean_sec > max_sec:
        raise ValueError("the count of a duration must be a whole number, and its mean must not exceed its longest")
    return Duration(mean_sec, max_sec, int(count))


def _parse_idle(value: Any) -> IdleTimeHistogram:
    if not isinstance(value, list) or len(value) != BUCKETS:
        raise ValueError(f"idle must be a list of {BUCKETS} counts")
    return IdleTimeHistogram(tuple(_number(one, MAX_COUNT) for one in value))


def _number(value: Any, maximum: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("expected a number")
    if not 0 <= value <= maximum:  # rejects NaN too, which JSON can contain
        raise ValueError(f"expected a number from 0 to {maximum:g}")
    return float(value)
