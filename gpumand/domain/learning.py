"""What was learned of a consumer: how long it takes to load, to unload, how long it is held and how long it idles.

Frozen values: whoever sees a load, an unload, the end of a lease or a request observes it, keeps the new value, and may
write it down as a record. Nothing here is configured, so everything has an answer before anything was learned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from gpumand.domain.consumer import EvictionMethod
from gpumand.domain.moving_average import averaged
from gpumand.domain.reuse_prediction import BUCKETS, IdleTimes

MAX_SEC = 7 * 86400.0
"""Longer than a week is a clock that jumped, not a load."""

MAX_COUNT = 10**9

FIRST_UNLOAD_SEC, FIRST_HOLD_SEC = 1.0, 10.0
"""What is assumed before anything was seen."""


class Start(StrEnum):
    """From where a load begins."""

    COLD = "cold"
    """Its process is started, its weights come from disk."""

    PARKED = "parked"
    """Its process lives on and had only its VRAM taken (a sleeping server, a model kept in host RAM)."""


def first_load_sec(footprint_mib: int, start: Start) -> float:
    """What loading takes as far as anybody can tell beforehand: a server's start, and the disk's or the bus's rate."""
    if start is Start.PARKED:
        return 0.5 + footprint_mib / 8192.0
    return 8.0 + footprint_mib * 1.048576 / 2500.0


@dataclass(frozen=True, slots=True)
class Duration:
    """A duration as it was seen so far, in seconds.

    Attributes:
        mean_sec: moving mean, see ``average``.
        max_sec: the longest.
        count: how many there were.
    """

    mean_sec: float = 0.0
    max_sec: float = 0.0
    count: int = 0

    def observed(self, seconds: float) -> Duration:
        """With one more; what is no duration (negative, beyond a week, not a number) changes nothing."""
        if not 0.0 <= seconds <= MAX_SEC:
            return self
        mean_sec = averaged(self.mean_sec if self.count else None, seconds)
        return Duration(mean_sec, max(self.max_sec, seconds), min(MAX_COUNT, self.count + 1))


NOTHING = Duration()


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned of one consumer.

    Attributes:
        loads: by where they began.
        unloads: by method.
        hold: how long its leases stand.
        idle: how long it is not wanted after a lease.
    """

    loads: Mapping[Start, Duration] = field(default_factory=dict)
    unloads: Mapping[EvictionMethod, Duration] = field(default_factory=dict)
    hold: Duration = NOTHING
    idle: IdleTimes = field(default_factory=IdleTimes)

    # -- observing -----------------------------------------------------------------------------------------------

    def observe_load(self, seconds: float, start: Start = Start.COLD) -> Learned:
        """A load has succeeded after so long."""
        return replace(self, loads={**self.loads, start: self.loads.get(start, NOTHING).observed(seconds)})

    def observe_unload(self, method: EvictionMethod, seconds: float) -> Learned:
        """An eviction by that method has given the memory back after so long."""
        return replace(self, unloads={**self.unloads, method: self.unloads.get(method, NOTHING).observed(seconds)})

    def observe_hold(self, seconds: float) -> Learned:
        """A lease has ended after so long."""
        return replace(self, hold=self.hold.observed(seconds))

    def observe_idle(self, seconds: float) -> Learned:
        """It is wanted again after so long without a lease and without anybody waiting for it."""
        return replace(self, idle=self.idle.observed(seconds))

    # -- asking --------------------------------------------------------------------------------------------------

    def load_sec(self, footprint_mib: int, start: Start = Start.COLD) -> float:
        """How long a load is expected to take."""
        seen = self.loads.get(start, NOTHING)
        return seen.mean_sec if seen.count else first_load_sec(footprint_mib, start)

    def unload_sec(self, method: EvictionMethod) -> float:
        """How long an eviction by that method is expected to take."""
        seen = self.unloads.get(method, NOTHING)
        return seen.mean_sec if seen.count else FIRST_UNLOAD_SEC

    def hold_sec(self) -> float:
        """How long a lease is expected to stand."""
        return self.hold.mean_sec if self.hold.count else FIRST_HOLD_SEC

    # -- over a restart ------------------------------------------------------------------------------------------

    def to_record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "loads": {str(start): _written(one) for start, one in self.loads.items()},
            "unloads": {str(method): _written(one) for method, one in self.unloads.items()},
            "hold": _written(self.hold),
            "idle": list(self.idle.counts),
        }

    @classmethod
    def from_record(cls, record: Any) -> Learned:
        """From what ``to_record`` gave; a key that is missing was not learned, one that is not known is passed over.

        Raises:
            ValueError: when it is no such record, in one line.
        """
        if not isinstance(record, dict):
            raise ValueError("a record is an object")
        return cls(
            loads={Start(key): _read(value) for key, value in _table(record, "loads", Start)},
            unloads={EvictionMethod(key): _read(value) for key, value in _table(record, "unloads", EvictionMethod)},
            hold=_read(record.get("hold", [0.0, 0.0, 0])),
            idle=_read_idle(record.get("idle", [0.0] * BUCKETS)),
        )


def _written(one: Duration) -> list[float]:
    return [one.mean_sec, one.max_sec, one.count]


def _table(record: dict[Any, Any], name: str, keys: type[StrEnum]) -> list[tuple[str, Any]]:
    """Entries whose key this version knows; another version may have learned by others."""
    table = record.get(name, {})
    if not isinstance(table, dict):
        raise ValueError(f"{name} is an object")
    known = {str(key) for key in keys}
    return [(key, value) for key, value in table.items() if key in known]


def _read(value: Any) -> Duration:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("a duration is a list of mean, longest and count")
    mean_sec, max_sec, count = map(_number, value, (MAX_SEC, MAX_SEC, float(MAX_COUNT)))
    if count != int(count) or mean_sec > max_sec:
        raise ValueError("a duration has a whole count and a mean no longer than its longest")
    return Duration(mean_sec, max_sec, int(count))


def _read_idle(value: Any) -> IdleTimes:
    if not isinstance(value, list) or len(value) != BUCKETS:
        raise ValueError(f"idle is a list of {BUCKETS} counts")
    return IdleTimes(tuple(_number(one, MAX_COUNT) for one in value))


def _number(value: Any, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is wanted")
    if not 0 <= value <= most:  # nothing that is not a number is
        raise ValueError(f"a number from 0 to {most:g} is wanted")
    return float(value)
