"""The arithmetic of VRAM: what is free, what of it is promised, what a victim would give back.

All figures are MiB on one device. Two ways of reckoning, never mixed within one device:

*live*: the source knows what is free. Then only what NVML does not show yet is subtracted from it.
*declared*: the source knows nothing. Then configured footprints are set against the configured total, and where not
even that is known the fit check is skipped (``free_mib`` is None): nothing is evicted on a guess.
"""

from __future__ import annotations

from gpumand.domain.consumer import UNKNOWN_MIB, EvictionMethod, Residency
from gpumand.domain.device import ProcessUse, Sample
from gpumand.domain.view import IN_VRAM, ConsumerState, View


def held_mib(sample: Sample, state: ConsumerState) -> int | None:
    """What the consumer's processes hold, or None where it cannot be told.

    A consumer that is loaded while nothing in its unit holds anything runs its model elsewhere (a unit that is only
    the ``docker run`` of a container): for it NVML's figure by unit means nothing. Not so a lazy one that does not say
    that it is loaded: it is resident by courtesy, until its first request.
    """
    figure_mib = sample.held_by(state.name)
    is_loaded = state.residency is Residency.RESIDENT and (state.says_loaded or not state.spec.lazy)
    return None if figure_mib == 0 and is_loaded else figure_mib


def told_mib(mib: int) -> int | None:
    """A figure that can be told: None where the footprint of somebody of whom nobody knows it is part of it."""
    return mib if mib < UNKNOWN_MIB // 2 else None


def unattributed_mib(sample: Sample) -> int | None:
    """What is used on the device by nobody we can name; None when use is unknown."""
    if sample.used_mib is None:
        return None
    named = sum(process.used_mib or 0 for process in sample.processes if process.consumer)
    return max(0, sample.used_mib - named)


def foreign_mib(sample: Sample) -> int | None:
    """What processes hold that belong to no consumer; None where that cannot be told."""
    if not sample.attributed:
        return None
    return sum(process.used_mib or 0 for process in sample.processes if not process.consumer)


def foreign_processes(sample: Sample) -> list[ProcessUse]:
    """Processes that belong to no consumer, who holds most first; those of which it is unknown how much last."""
    strangers = [process for process in sample.processes if not process.consumer]
    return sorted(strangers, key=lambda process: (process.used_mib is None, -(process.used_mib or 0), process.pid))


def reserved_by_consumer(view: View, device: int) -> dict[str, int]:
    """MiB of claimed footprints that the device's figures do not show yet, by consumer.

    A reservation shrinks as its consumer's own use grows. Where use cannot be attributed, growth of what nobody is
    known to hold is credited to those claims in the order in which they were made, so that the same growth never
    shrinks two reservations.
    """
    sample = view.devices[device]
    claims = sorted(
        (state for state in view.consumers.values() if state.claimed and device in state.devices),
        key=lambda state: (state.claimed_at or 0.0, state.name),
    )
    loose_mib = unattributed_mib(sample)
    credited_mib = 0
    reserved = {}
    for state in claims:
        seen_mib = held_mib(sample, state)
        if seen_mib is None and state.shown:
            continue
        if seen_mib is None:
            seen_mib = _growth(state, state.baseline_mib.get(device), loose_mib, credited_mib)
            credited_mib += seen_mib
        reserved[state.name] = max(0, state.footprint_mib - seen_mib)
    return reserved


def _growth(state: ConsumerState, baseline_mib: int | None, loose_mib: int | None, credited_mib: int) -> int:
    """What may be taken for the claim's own use, out of what appeared since it was made."""
    if loose_mib is None or baseline_mib is None:
        return 0
    return min(state.footprint_mib, max(0, loose_mib - baseline_mib - credited_mib))


def committed_mib(view: View, device: int, besides: str = "") -> int:
    """Footprints that are spoken for on the device, whether visible yet or not, ``besides`` left out."""
    return sum(
        state.footprint_mib
        for state in view.consumers.values()
        if state.claimed and device in state.devices and state.name != besides
    )


def total_mib(view: View, device: int) -> int | None:
    """What the device has, as far as anybody knows."""
    return view.devices[device].total_mib


def free_mib(view: View, device: int, target: str) -> int | None:
    """MiB that the target may count on, after what is promised to others; None = nobody knows. May be negative."""
    sample = view.devices[device]
    if sample.known:
        reserved = reserved_by_consumer(view, device)
        return (sample.free_mib or 0) - sum(mib for name, mib in reserved.items() if name != target)
    if sample.total_mib is None:
        return None
    return sample.total_mib - sum(_believed_mib(state) for state in view.on((device,)) if state.name != target)


def need_mib(view: View, device: int, target: str) -> int:
    """MiB that must be free for the target to be loaded: footprint and cushion, less what it already holds."""
    state, sample = view.consumers[target], view.devices[device]
    seen_mib = held_mib(sample, state) if sample.known else None
    return state.footprint_mib + view.settings.cushion_mib - min(seen_mib or 0, state.footprint_mib)


def stays_mib(state: ConsumerState, method: EvictionMethod | None = None) -> int:
    """MiB that may stay on each of its devices when it is evicted by a method, None = by its first one."""
    by = method or next(iter(state.methods), EvictionMethod.UNIT_STOP)
    return state.spec.residual_mib if by is EvictionMethod.HTTP else 0


def yield_mib(sample: Sample, state: ConsumerState, loose_mib: int | None, method: EvictionMethod | None = None) -> int:
    """MiB that evicting a consumer is expected to free.

    Args:
        sample: the device as it is.
        state: the victim.
        loose_mib: what nobody is known to hold there: the most that a victim whose use is unknown can have.
        method: how it is evicted; None = by its first method.
    """
    left_mib = stays_mib(state, method)
    if not sample.known:
        return max(0, _believed_mib(state) - left_mib)
    seen_mib = held_mib(sample, state)
    is_parked = state.residency is Residency.PARKED
    if seen_mib is None and not is_parked and not state.footprint_known:
        return 0  # all that is certain is that nobody knows
    if seen_mib is None:
        seen_mib = min(state.spec.residual_mib if is_parked else state.footprint_mib, loose_mib or 0)
    return max(0, seen_mib - left_mib)


def _believed_mib(state: ConsumerState) -> int:
    """What it is taken to hold where nothing can be read."""
    if state.claimed or state.residency in IN_VRAM:
        return state.footprint_mib
    return state.spec.residual_mib if state.residency is Residency.PARKED else 0
