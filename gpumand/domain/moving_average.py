"""The exponential moving average used for all learned values."""

from __future__ import annotations

WEIGHT = 0.2
"""Weight of the newest value."""


def update_mean(mean: float | None, value: float) -> float:
    """The mean after one more value; ``mean`` None = this is the first value."""
    return float(value) if mean is None else mean + WEIGHT * (value - mean)
