"""The arithmetic of VRAM: what is free, what of it is reserved, and what an eviction would free.

All amounts are MiB on one device. There are two ways of counting, never mixed within one device:

*measured*: the source knows what is free. Only reservations that the driver does not show yet are subtracted from it.
*declared*: the source knows nothing. Configured footprints are subtracted from the configured total. Where not even
the total is known the fit check is skipped (``free_mib`` is None), so that nothing is evicted on a guess. On a device
that could be read before, what was in use outside of consumers at the last reading is subtracted as well.
"""

from __future__ import annotations

from collections.abc import Collection

from gpumand.domain.consumer import UNKNOWN_MIB, EvictionMethod
from gpumand.domain.device import Pool, ProcessUse, Sample
from gpumand.domain.reserved_memory import filled_mib, is_whole_device
from gpumand.domain.residency import context_mib, holds_model
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import IN_VRAM, ConsumerState, View

UNNAMED_NOISE_MIB = 512
"""Less unnamed memory than this is not worth a word beside known holders: contexts, and the driver itself."""


def held_mib(sample: Sample, state: ConsumerState) -> int | None:
    """MiB that the consumer's processes hold on a device; None where the sample cannot say.

    A loaded consumer with no memory in its unit runs its model elsewhere (a unit that is only the ``docker run`` of a
    container), so that the driver's amount for the unit means nothing. The exception is a lazy consumer that does not
    report itself loaded: it counts as resident, but holds nothing until its first request.
    """
    reading_mib = sample.held_by(state.name)
    return None if reading_mib == 0 and _is_loaded(state) else reading_mib


def _is_loaded(state: ConsumerState) -> bool:
    """Whether its model is loaded, and not only about to be loaded by its first request."""
    return state.residency is Residency.RESIDENT and (state.reports_loaded or not state.spec.lazy)


def reportable_mib(mib: int) -> int | None:
    """An amount to show to people; None where a footprint of unknown size is part of it."""
    # Sums contain UNKNOWN_MIB with something subtracted or added; no real amount comes near half of it.
    return mib if mib < UNKNOWN_MIB // 2 else None


def unattributed_mib(sample: Sample) -> int | None:
    """MiB used on the device that belong to no known consumer; None when use is unknown."""
    if sample.used_mib is None:
        return None
    named = sum(process.used_mib or 0 for process in sample.processes if process.consumer)
    return max(0, sample.used_mib - named)


def foreign_mib(sample: Sample) -> int | None:
    """MiB held by processes that belong to no consumer; None where the source cannot say."""
    if not sample.attributed:
        return None
    return sum(process.used_mib or 0 for process in sample.processes if not process.consumer and not process.shared)


def unnamed_mib(sample: Sample) -> int | None:
    """MiB in use beyond all processes that the driver names: managed memory, other containers, the driver itself.

    None where the use of the device is unknown. Memory of a listed process of unknown size is part of it.
    """
    if sample.used_mib is None:
        return None
    return max(0, sample.used_mib - sum(process.used_mib or 0 for process in sample.processes))


def unexplained_mib(view: View, device: int) -> int:
    """MiB of unnamed memory that is not the memory of a consumer whose use the driver cannot attribute."""
    sample = view.devices[device]
    hidden_mib = sum(_hidden_mib(sample, one) for one in view.consumers_on((device,)) if one.footprint_known)
    return max(0, (unnamed_mib(sample) or 0) - hidden_mib)


def beyond_named_mib(sample: Sample, state: ConsumerState, available_mib: int) -> int:
    """MiB that a loaded consumer probably holds beyond what the driver names as its own: managed memory.

    Only a large amount counts, up to its footprint; less is contexts and the driver itself.

    Args:
        sample: the device's reading.
        state: the consumer.
        available_mib: MiB of unnamed memory on the device that no other consumer accounts for.
    """
    used_mib = held_mib(sample, state)
    # On unified memory, what the driver does not name is mostly host RAM of other programs.
    is_large = sample.pool is Pool.VRAM and available_mib > max(UNNAMED_NOISE_MIB, context_mib(state.spec))
    if used_mib is None or not is_large or not _is_loaded(state) or not state.footprint_known:
        return 0
    return max(0, min(state.footprint_mib - used_mib, available_mib))


def _hidden_mib(sample: Sample, state: ConsumerState) -> int:
    """MiB of its footprint that a consumer may hold without being named."""
    used_mib = held_mib(sample, state)
    return _assumed_mib(state) if used_mib is None else 0


def foreign_processes(sample: Sample) -> list[ProcessUse]:
    """Processes that belong to no consumer, the largest first; those of unknown size last."""
    foreign = [process for process in sample.processes if not process.consumer and not process.shared]
    return sorted(foreign, key=lambda process: (process.used_mib is None, -(process.used_mib or 0), process.pid))


def shown_mib(view: View, device: int, name: str) -> int:
    """MiB of a claimed footprint that the device's reading shows already."""
    state = view.consumers[name]
    return max(0, state.footprint_mib - reserved_by_consumer(view, device).get(name, 0))


def reserved_by_consumer(view: View, device: int) -> dict[str, int]:
    """MiB of claimed footprints that the device's reading does not show yet, by consumer.

    A reservation shrinks as its consumer's own use grows. Where use cannot be attributed, the growth of unnamed memory
    is credited to the claims in the order in which they were made, so that the same growth never shrinks two
    reservations.
    """
    sample = view.devices[device]
    claims = sorted(
        (state for state in view.claimed if device in state.devices),
        key=lambda state: (state.claimed_at or 0.0, state.name),
    )
    if not claims:
        return {}
    unattributed, beyond_mib = unattributed_mib(sample), unexplained_mib(view, device)
    credited_mib = 0
    reserved = {}
    filled = filled_mib(sample, claims)
    for state in claims:
        used_mib = filled[state.name] if state.name in filled else held_mib(sample, state)
        if used_mib is None and state.footprint_seen:
            continue
        if used_mib is None:
            used_mib = _growth_mib(state, state.baseline_mib.get(device), unattributed, credited_mib)
            credited_mib += used_mib
        elif not holds_model(state.spec, used_mib):
            # Its model is loaded, but not in what the driver names: it is in unnamed memory, which is not free either.
            more_mib = beyond_named_mib(sample, state, beyond_mib)
            used_mib, beyond_mib = used_mib + more_mib, beyond_mib - more_mib
        reserved[state.name] = max(0, state.footprint_mib - used_mib)
        if is_whole_device(state) and sample.free_mib is not None:
            reserved[state.name] = sample.free_mib  # foreign memory may be in use there too, and is not reserved
    return reserved


def _growth_mib(state: ConsumerState, baseline_mib: int | None, unnamed_mib: int | None, credited_mib: int) -> int:
    """MiB of unnamed memory that appeared since the claim was made and may be the claim's own use."""
    if unnamed_mib is None or baseline_mib is None:
        return 0
    return min(state.footprint_mib, max(0, unnamed_mib - baseline_mib - credited_mib))


def committed_mib(view: View, device: int, excluding: str = "") -> int:
    """MiB of all claimed footprints on the device, whether visible yet or not, except those that may be reclaimed.

    Args:
        view: everything at this moment.
        device: index of the device.
        excluding: a consumer to leave out; "" = none.
    """
    return sum(
        state.footprint_mib
        for state in view.claimed
        if device in state.devices and state.name != excluding and not view.may_be_reclaimed(state)
    )


def total_mib(view: View, device: int) -> int | None:
    """MiB that the device has; None = unknown."""
    return view.devices[device].total_mib


def free_mib(view: View, device: int, target: str) -> int | None:
    """MiB free for the target, less what is reserved for others; None = unknown. May be negative."""
    sample = view.devices[device]
    if sample.is_measured:
        reserved = reserved_by_consumer(view, device)
        free_mib = (sample.free_mib or 0) - sum(mib for name, mib in reserved.items() if name != target)
        return free_mib - moved_out_mib(view, device, target, reserved)
    if sample.total_mib is None:
        return None
    others = (state for state in view.consumers_on((device,)) if state.name != target)
    return sample.total_mib - sum(_assumed_mib(state) for state in others) - (last_foreign_mib(view, device) or 0)


def last_foreign_mib(view: View, device: int) -> int | None:
    """MiB that were in use outside of consumers at the last successful reading of a device that now fails.

    Memory that no process list names may be that of a consumer of unknown use. It counts as such as long as the
    consumer is assumed to hold its footprint, so that the same MiB are not subtracted twice.
    """
    last = view.devices[device].last
    unnamed_mib = None if last is None else unattributed_mib(last)
    if last is None or unnamed_mib is None:
        return None
    named_mib = sum(process.used_mib or 0 for process in last.processes if not process.consumer)
    unknown = (state for state in view.consumers_on((device,)) if held_mib(last, state) is None)
    assumed_mib = sum(_assumed_mib(state) for state in unknown if state.footprint_known)
    return max(named_mib, unnamed_mib - assumed_mib)


def moved_out_mib(view: View, device: int, target: str, reserved: Collection[str]) -> int:
    """MiB that consumers hold on a card that is asleep, and that are missing in its reading.

    The driver moves the memory of a suspended card to host RAM and shows it as free, but it comes back when the card is
    used. The footprints of consumers count whose memory is not known otherwise.

    Args:
        view: everything at this moment.
        device: index of the device.
        target: the consumer to leave out.
        reserved: consumers whose footprint is counted already.
    """
    sample = view.devices[device]
    if not sample.asleep:
        return 0
    hidden = (
        state.footprint_mib
        for state in view.consumers_on((device,))
        if state.name != target
        and state.name not in reserved
        and state.footprint_known
        and state.residency in IN_VRAM
        and held_mib(sample, state) is None
    )
    return max(0, sum(hidden) - (unattributed_mib(sample) or 0))


def need_mib(view: View, device: int, target: str) -> int:
    """MiB that must be free to load the target: footprint and cushion, less what it already holds."""
    state, sample = view.consumers[target], view.devices[device]
    used_mib = held_mib(sample, state) if sample.is_measured else None
    return state.footprint_mib + view.settings.cushion_mib - min(used_mib or 0, state.footprint_mib)


def residual_mib(state: ConsumerState, method: EvictionMethod | None = None) -> int:
    """MiB that are expected to stay on each device after an eviction by a method; None = its first method."""
    by = method or next(iter(state.usable_methods), EvictionMethod.UNIT_STOP)
    return (state.spec.residual_mib or round(state.memory.residual_mib or 0)) if by is EvictionMethod.HTTP else 0


def tolerated_mib(state: ConsumerState) -> int:
    """MiB that may stay on a device after an unload by route without the eviction having failed.

    This is the declared residual, or else what stayed before or a CUDA context takes, whichever is more.
    """
    return state.spec.residual_mib or max(round(state.memory.residual_mib or 0), context_mib(state.spec))


def freeable_mib(
    sample: Sample,
    state: ConsumerState,
    unnamed_mib: int | None,
    method: EvictionMethod | None = None,
    beyond_mib: int = 0,
) -> int:
    """MiB that evicting a consumer is expected to free on a device.

    Args:
        sample: the device's reading.
        state: the victim.
        unnamed_mib: MiB of unnamed memory on the device: the most that a victim of unknown use can hold.
        method: how it is evicted; None = by its first method.
        beyond_mib: MiB that it probably holds beyond what the driver names as its own, see ``beyond_named_mib``.
    """
    left_mib = residual_mib(state, method)
    if not sample.is_measured:
        return max(0, _assumed_mib(state) - left_mib)
    used_mib = held_mib(sample, state)
    is_parked = state.residency is Residency.PARKED
    if used_mib is None and not is_parked and not state.footprint_known:
        return 0  # neither its use nor its footprint is known, so that no amount can be relied on
    if used_mib is None:
        assumed_mib = state.spec.residual_mib if is_parked else state.footprint_mib
        # A card that is asleep shows none of what its consumers hold, see ``moved_out_mib``.
        used_mib = assumed_mib if sample.asleep else min(assumed_mib, unnamed_mib or 0)
    elif left_mib < used_mib and by_route(state, method) and not holds_model(state.spec, used_mib + beyond_mib):
        return 0  # a context without a model: the unload route has nothing to unload
    else:
        used_mib += beyond_mib
    return max(0, used_mib - left_mib)


def by_route(state: ConsumerState, method: EvictionMethod | None = None) -> bool:
    """Whether an eviction by this method, None = its first one, calls the unload route."""
    return (method or next(iter(state.usable_methods), None)) is EvictionMethod.HTTP


def _assumed_mib(state: ConsumerState) -> int:
    """MiB that it is assumed to hold on a device that cannot be read."""
    if state.claimed or state.residency in IN_VRAM:
        return state.footprint_mib
    return state.spec.residual_mib if state.residency is Residency.PARKED else 0


def reclaimed_by_consumer(view: View, device: int) -> dict[str, int]:
    """MiB reserved on a device for consumers whose reservation ends with their eviction."""
    if not view.devices[device].is_measured or not any(map(view.may_be_reclaimed, view.claimed)):
        return {}  # footprints on a device that cannot be read count whole already
    reserved = reserved_by_consumer(view, device)
    return {name: mib for name, mib in reserved.items() if view.may_be_reclaimed(view.consumers[name])}
