"""Evidence that a consumer's processes hold a model, and not only what a server without a model holds.

A server that loads its model with the first request (``ConsumerSpec.lazy``) is granted before that request, so a lease
proves nothing. Idle, it holds a CUDA context, and more with some plugins. That memory must not be taken for the
footprint: a service of 13,000 MiB would be granted with room for 448.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumand.domain.consumer import ConsumerSpec
from gpumand.domain.cuda_context import CONTEXT_MIB
from gpumand.domain.residency import holds_model

IDLE_MIB = 2048
"""The most that a server without a model holds: custom nodes of ComfyUI take 1 to 2 GB (ComfyUI issue 5536)."""

ALMOST_ALL = 0.9
"""Share of the footprint that only a loaded model explains."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What was observed of a consumer while its processes held VRAM.

    Attributes:
        base_mib: the least that they held while it was constant, in MiB; None when it never was.
        peak_mib: the most that they held, in MiB.
        worked: the consumer reported work.
        reported: the consumer reported that its model is loaded.
    """

    base_mib: int | None
    peak_mib: int
    worked: bool = False
    reported: bool = False


def grew_by_a_model(base_mib: int, peak_mib: int) -> bool:
    """Whether memory grew by more than a server without a model takes.

    A base above 0 already contains the CUDA context, so less growth is enough.
    """
    return peak_mib - base_mib > (CONTEXT_MIB if base_mib > 0 else IDLE_MIB)


def load_was_seen(spec: ConsumerSpec, footprint_mib: int, seen: Observed) -> bool:
    """Whether the observations show a loaded model, so that its memory may be learned as the footprint.

    Args:
        spec: the consumer.
        footprint_mib: its footprint, declared or measured; ``UNKNOWN_MIB`` when it is not known.
        seen: the observations.
    """
    if not holds_model(spec, seen.peak_mib):
        return False
    if not spec.lazy or seen.worked or seen.reported:
        return True
    if seen.peak_mib >= ALMOST_ALL * footprint_mib or (spec.vram_auto and seen.peak_mib > IDLE_MIB):
        return True
    return grew_by_a_model(seen.base_mib or 0, seen.peak_mib) if seen.base_mib is not None else False
