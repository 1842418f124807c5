"""The memory of one NVIDIA device."""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.device import Pool


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
