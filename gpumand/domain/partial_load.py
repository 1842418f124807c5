"""Models of which only a part is in VRAM, as their server reports it: the rest is computed on the CPU, much slower."""

from __future__ import annotations

from dataclasses import dataclass

WHOLE_PERCENT = 99
"""From this share on a model counts as whole: servers round, and keep small tensors in host RAM."""

MIB = 2**20


@dataclass(frozen=True, slots=True)
class PartialLoad:
    """How much of a loaded model is in VRAM.

    Attributes:
        size_mib: MiB of the whole model with its context, in VRAM and in host RAM together.
        vram_mib: MiB of it in VRAM.
    """

    size_mib: int
    vram_mib: int

    @property
    def percent(self) -> int:
        """The share in VRAM, 0 to 99."""
        return 100 * self.vram_mib // self.size_mib


def partial_load(size_bytes: int | None, vram_bytes: int | None) -> PartialLoad | None:
    """The load that a server reports; None where the whole model is in VRAM, or where that is unknown."""
    if size_bytes is None or vram_bytes is None or not 0 <= vram_bytes <= size_bytes or size_bytes < MIB:
        return None
    found = PartialLoad(size_bytes // MIB, vram_bytes // MIB)
    return found if found.percent < WHOLE_PERCENT else None
