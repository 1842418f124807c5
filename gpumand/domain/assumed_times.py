"""Times of a consumer that are assumed before the first observation (see ``learning``)."""

from __future__ import annotations

from enum import StrEnum

DEFAULT_UNLOAD_SEC, DEFAULT_HOLD_SEC = 1.0, 10.0
"""Assumed durations before the first observation."""


class Start(StrEnum):
    """The state from which a load starts."""

    COLD = "cold"
    """The process is started, and the weights are read from disk."""

    PARKED = "parked"
    """The process is running and only lost its VRAM (a sleeping server, a model kept in host RAM)."""


def default_load_sec(footprint_mib: int, start: Start) -> float:
    """Assumed seconds of a load: the start of a server, plus the transfer of the weights from disk or host RAM."""
    if start is Start.PARKED:
        return 0.5 + footprint_mib / 8192.0
    return 8.0 + footprint_mib * 1.048576 / 2500.0
