"""How soon is a consumer wanted again? A histogram of idle times, learned from what happened, as a value.

An idle time is the time from the end of a consumer's last lease to the next request for it. The buckets are geometric,
since what matters is whether it was seconds, minutes or hours. The question asked of them is the one that an eviction
asks: it has been idle for so long already; how likely is it to be wanted within the next ``HORIZON_SEC``?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BUCKETS = 16
"""Bucket k holds idle times from 2^k s to 2^(k+1) s; the first one those below 1 s too, the last all longer ones."""

HORIZON_SEC = 20.0
"""Wanted again within so long is what makes an eviction a mistake. Results are the same from 5 s to 45 s."""

PRIOR_SEC = 15.0
"""Without history: idle for 15 s, the chance is one half."""

PRIOR_WEIGHT = 3.0
"""The prior counts as so many observations."""

HALF_LIFE = 200
"""So many observations later one counts half: habits change."""

MAX_IDLE_SEC = 30 * 86400.0
"""A month: what is longer says no more than that."""

_DECAY = 0.5 ** (1.0 / HALF_LIFE)
_STARTS = (0.0, *(2.0**k for k in range(1, BUCKETS)))
_WIDTHS = tuple(2.0 ** (k + 1) - start for k, start in enumerate(_STARTS))


def prior(idle_sec: float) -> float:
    """The chance that is assumed while nothing is known."""
    return PRIOR_SEC / (PRIOR_SEC + max(0.0, idle_sec))


@dataclass(frozen=True, slots=True)
class IdleTimes:
    """A histogram of idle times.

    Attributes:
        counts: how many ended in each bucket; the older, the less they count.
    """

    counts: tuple[float, ...] = (0.0,) * BUCKETS

    @property
    def is_empty(self) -> bool:
        """Whether nothing was seen yet."""
        return not any(self.counts)

    def observed(self, seconds: float) -> IdleTimes:
        """With one more idle time; what is no time at all (negative, not a number) changes nothing."""
        if not 0.0 <= seconds < math.inf:
            return self
        counts = [count * _DECAY for count in self.counts]
        counts[bucket_of(seconds)] += 1.0
        return IdleTimes(tuple(counts))

    def with_pool(self, pool: IdleTimes, weight: float) -> IdleTimes:
        """Its own, and those of many, which count as ``weight`` of its own (or as many as there are, if fewer)."""
        seen = sum(pool.counts)
        if seen <= 0.0:
            return self
        share = min(1.0, weight / seen)
        return IdleTimes(tuple(own + share * one for own, one in zip(self.counts, pool.counts, strict=True)))

    def chance(self, idle_sec: float, still_idle: Sequence[float] = ()) -> float:
        """The chance of being wanted within the horizon.

        Args:
            idle_sec: for how long it has been idle.
            still_idle: for how long others of the same kind are idle and still not wanted: they have no idle time yet,
                but have reached every bucket below (Kaplan and Meier's estimate).
        """
        reached = self._reached(still_idle)
        alive, at, end = 1.0, max(0.0, idle_sec), max(0.0, idle_sec) + HORIZON_SEC
        first = bucket_of(at)
        for k in range(first, BUCKETS):
            share = (min(end, _STARTS[k] + _WIDTHS[k]) - max(at, _STARTS[k])) / _WIDTHS[k]
            if share <= 0.0:
                break
            hazard = min(1.0, self.counts[k] / reached[k]) if reached[k] > 0.0 else 0.0
            alive *= (1.0 - hazard) ** min(1.0, share)
        weight = reached[first]
        return (PRIOR_WEIGHT * prior(idle_sec) + weight * (1.0 - alive)) / (PRIOR_WEIGHT + weight)

    def _reached(self, still_idle: Sequence[float]) -> list[float]:
        """How many idle times lasted at least until each bucket."""
        reached = [0.0] * BUCKETS
        for seconds in still_idle:
            reached[bucket_of(seconds)] += 1.0
        total = 0.0
        for k in range(BUCKETS - 1, -1, -1):
            total += self.counts[k] + reached[k]
            reached[k] = total
        return reached


def bucket_of(seconds: float) -> int:
    """Which bucket an idle time belongs to."""
    return 0 if seconds < 2.0 else min(BUCKETS - 1, math.frexp(min(seconds, MAX_IDLE_SEC))[1] - 1)
