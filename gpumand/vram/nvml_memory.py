"""The memory of one NVIDIA device, and NVML's amounts in MiB."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.device import Pool

MIB = 1 << 20
NOT_AVAILABLE = (1 << 64) - 1
"""NVML's value for "not available", which is the largest number and not zero."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one device in MiB; None = unknown. ``used_mib`` includes the driver's reserve only with an old NVML.

    Attributes:
        pool: what the memory is.
    """

    total_mib: int | None
    used_mib: int | None
    free_mib: int | None
    pool: Pool = Pool.VRAM


def ceil_mib(value: int | None) -> int | None:
    """Convert used bytes to MiB, rounded up, so that a small amount does not become zero; None if not available."""
    return None if value in (None, NOT_AVAILABLE) else -(-int(value) // MIB)
