"""How soon is a consumer wanted again? A histogram of idle times, learned from what happened, as a value.

An idle time is the time from the end of a consumer's last lease to the next request for it. The buckets are geometric,
since what matters is whether it was seconds, minutes or hours. The question asked of them is the one that an eviction
asks: it has been idle for so long already; how likely is it to be wanted within the next ``HORIZON_SEC``?
"""

from __future__ import annotations

import math
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
_ENDS = tuple(2.0 ** (k + 1) for k in range(BUCKETS))
_LEAST = 1e-9


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

    def scaled(self, weight: float) -> IdleTimes:
        """The same, as if there had been ``weight`` of them; as they are where there are fewer."""
        share = weight / max(weight, sum(self.counts))
        return IdleTimes(tuple(share * count for count in self.counts))

    def chance(self, idle_sec: float, pool: IdleTimes | None = None) -> float:
        """The chance of being wanted within the horizon.

        Args:
            idle_sec: for how long it has been idle.
            pool: idle times of others that count as its own.
        """
        at, end = max(0.0, idle_sec), max(0.0, idle_sec) + HORIZON_SEC
        first = bucket_of(at)
        own, others = self.counts, (pool or _NONE).counts
        weight = reached = sum(own[first:]) + sum(others[first:])
        alive = 1.0
        for k in range(first, BUCKETS):
            share = (min(end, _ENDS[k]) - max(at, _STARTS[k])) / (_ENDS[k] - _STARTS[k])
            if share <= 0.0 or reached <= _LEAST:
                break
            ended = own[k] + others[k]
            alive *= max(0.0, 1.0 - ended / reached) ** min(1.0, share)
            reached -= ended
        return (PRIOR_WEIGHT * prior(idle_sec) + weight * (1.0 - alive)) / (PRIOR_WEIGHT + weight)


_NONE = IdleTimes()


def bucket_of(seconds: float) -> int:
    """Which bucket an idle time belongs to."""
    return 0 if seconds < 2.0 else min(BUCKETS - 1, math.frexp(min(seconds, MAX_IDLE_SEC))[1] - 1)
