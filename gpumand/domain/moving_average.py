"""The moving mean by which everything is learned that is measured again and again."""

from __future__ import annotations

WEIGHT = 0.2
"""What the newest figure counts in it."""


def averaged(mean: float | None, value: float) -> float:
    """The mean with one more figure; None = there was none before."""
    return float(value) if mean is None else mean + WEIGHT * (value - mean)
