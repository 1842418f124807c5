"""Prediction of when a consumer is requested again, from a learned histogram of its idle times.

An idle time is the time from the end of a consumer's last lease to the next request for it. The buckets are geometric:
the order of magnitude matters (seconds, minutes or hours). The histogram answers the question that matters for an
eviction: after this idle time, how likely is a request within the next ``HORIZON_SEC``?
"""

from __future__ import annotations

import math
from dataclasses import dataclass

BUCKETS = 16
"""Bucket k has idle times from 2^k s to 2^(k+1) s; the first also those below 1 s, the last also all longer ones."""

HORIZON_SEC = 20.0
"""An eviction is a mistake when a request follows within this time. Results are the same from 5 s to 45 s."""

PRIOR_SEC = 15.0
"""Without observations, the probability after this idle time is one half."""

PRIOR_WEIGHT = 3.0
"""Number of observations that the prior counts as."""

HALF_LIFE = 200
"""After this many further observations, an observation counts half, since usage changes over time."""

MAX_IDLE_SEC = 30 * 86400.0
"""Longer idle times are treated as a month."""

_DECAY = 0.5 ** (1.0 / HALF_LIFE)
_STARTS = (0.0, *(2.0**k for k in range(1, BUCKETS)))
_ENDS = tuple(2.0 ** (k + 1) for k in range(BUCKETS))
_EPSILON = 1e-9


def prior(idle_sec: float) -> float:
    """The probability of a request within the horizon that is assumed without observations."""
    return PRIOR_SEC / (PRIOR_SEC + max(0.0, idle_sec))


@dataclass(frozen=True, slots=True)
class IdleTimeHistogram:
    """A histogram of idle times.

    Attributes:
        counts: weighted number of observations in each bucket; older observations weigh less.
    """

    counts: tuple[float, ...] = (0.0,) * BUCKETS

    @property
    def is_empty(self) -> bool:
        """Whether there is no observation yet."""
        return not any(self.counts)

    def with_observation(self, seconds: float) -> IdleTimeHistogram:
        """A copy with one more idle time in seconds; an invalid one (negative, infinite, NaN) is ignored."""
        if not 0.0 <= seconds < math.inf:
            return self
        counts = [count * _DECAY for count in self.counts]
        counts[bucket_of(seconds)] += 1.0
        return IdleTimeHistogram(tuple(counts))

    def scaled(self, weight: float) -> IdleTimeHistogram:
        """A copy scaled down to a total of ``weight`` observations; unchanged where there are fewer."""
        share = weight / max(weight, sum(self.counts))
        return IdleTimeHistogram(tuple(share * count for count in self.counts))

    def reuse_probability(self, idle_sec: float, pool: IdleTimeHistogram | None = None) -> float:
        """The probability of a request within ``HORIZON_SEC``, from 0 to 1.

        Args:
            idle_sec: seconds since the last lease ended.
            pool: idle times of other consumers, added to its own observations.
        """
        at, end = max(0.0, idle_sec), max(0.0, idle_sec) + HORIZON_SEC
        first = bucket_of(at)
        own, others = self.counts, (pool or _NONE).counts
        weight = reached = sum(own[first:]) + sum(others[first:])
        alive = 1.0
        # Survival analysis: multiply the probabilities of staying idle in each bucket that the horizon overlaps. A
        # bucket that it overlaps only in part counts with the exponent ``share``.
        for k in range(first, BUCKETS):
            share = (min(end, _ENDS[k]) - max(at, _STARTS[k])) / (_ENDS[k] - _STARTS[k])
            if share <= 0.0 or reached <= _EPSILON:
                break
            ended = own[k] + others[k]
            alive *= max(0.0, 1.0 - ended / reached) ** min(1.0, share)
            reached -= ended
        return (PRIOR_WEIGHT * prior(idle_sec) + weight * (1.0 - alive)) / (PRIOR_WEIGHT + weight)


_NONE = IdleTimeHistogram()


def bucket_of(seconds: float) -> int:
    """Index of the bucket of an idle time."""
    return 0 if seconds < 2.0 else min(BUCKETS - 1, math.frexp(min(seconds, MAX_IDLE_SEC))[1] - 1)
