"""Pauses between attempts to load a consumer whose loads fail."""

from __future__ import annotations

BACKOFF_FIRST_SEC, BACKOFF_MAX_SEC = 10.0, 300.0


def backoff_sec(failures: int) -> float:
    """Seconds until the next load attempt after this many failed loads in a row: 10 s, doubling up to 5 min."""
    return float(min(BACKOFF_MAX_SEC, BACKOFF_FIRST_SEC * 2.0 ** min(failures - 1, 10))) if failures > 0 else 0.0
