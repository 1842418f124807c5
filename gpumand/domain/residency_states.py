"""Where the model of a consumer is. A module of its own, for programs that need nothing else about consumers."""

from __future__ import annotations

from enum import StrEnum


class Residency(StrEnum):
    """Where the model of a consumer is: in VRAM, in host RAM, on disk, or on the way."""

    UNKNOWN = "unknown"
    UNLOADED = "unloaded"
    PARKED = "parked"
    LOADING = "loading"
    RESIDENT = "resident"
    UNLOADING = "unloading"
    FAILED = "failed"
