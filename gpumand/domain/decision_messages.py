"""Builds the one-line messages of decisions: why a request is granted, waits or is refused, and what to do about it.

A message for a wait is a clause that names the blocker, so that it can follow "waiting for it:" as well as stand alone.
A message for a refusal states what happened, the facts that decided it, and what the reader can do.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from gpumand.domain import budget, busyness, unread_devices
from gpumand.domain.device import Devices, ProcessUse
from gpumand.domain.lease_wording import describe_leased
from gpumand.domain.name_lists import join_names
from gpumand.domain.orphans import describe_orphans
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, Job, View
from gpumand.domain.wording import (
    FOOTPRINT_UNKNOWN,
    describe_devices,
    describe_holders,
    format_mib,
    is_or_are,
)

HOLD_UNNAMED = "hold unnamed memory (containers, managed memory)"

# -- refusals before any device is chosen ------------------------------------------------------------------------------


def footprint_unknown(state: ConsumerState) -> str:
    """Refusal: nothing says how much VRAM the consumer needs."""
    return f"cannot grant {state.name}: {FOOTPRINT_UNKNOWN}."


def no_devices(view: View, state: ConsumerState, requested: Devices) -> str:
    """Refusal: no set of present devices satisfies the request and the configuration."""
    problem, advice = _device_problem(view, state, requested)
    present = f"present: {describe_devices(tuple(sorted(view.devices)))}"
    errors = sorted({sample.error for sample in view.devices.values() if sample.error})
    return f"{problem} ({'; '.join([present, *errors])}). {advice}."


def _device_problem(view: View, state: ConsumerState, requested: Devices) -> tuple[str, str]:
    needed = state.spec.device_count
    missing = tuple(device for device in requested if device not in view.devices)
    if missing:
        problem = f"{describe_devices(missing)} {is_or_are(missing)} not present"
        return problem, "Request a device that is present, or none"
    if len(requested) > needed:
        count = f"{needed} device{'' if needed == 1 else 's'}"
        return f"{state.name} needs {count}, but {describe_devices(requested)} were requested", f"Request {count}"
    known = {name for sample in view.devices.values() for name in sample.names}
    absent = [device for device in state.spec.devices if device not in known]
    if absent:
        subject = f"device{'s' if len(absent) > 1 else ''} {', '.join(absent)}"
        problem = f"{subject}, configured for {state.name}, {is_or_are(absent)} not present"
        return problem, f"Correct device in consumers.{state.name}, or check the driver"
    problem = (
        f"{state.name} needs {needed} devices at once, but {len(view.devices)} {is_or_are(list(view.devices))} present"
    )
    return problem, f"Correct device_count in consumers.{state.name}, or check the driver"


# -- refusals on a device ----------------------------------------------------------------------------------------------


def on_other_devices(state: ConsumerState, place: Devices) -> str:
    """Refusal: the consumer's process is on other devices than the requested ones."""
    where = f"{state.name} is {state.residency} on {describe_devices(state.devices)}, not on {describe_devices(place)}"
    return f"{where}. Evict it first, or request {describe_devices(state.devices)}."


def backing_off(view: View, state: ConsumerState) -> str:
    """Refusal: the last load failed a short while ago.

    Starting the unit is no advice where an earlier run has left processes behind: the next run has no room beside them.
    """
    error = state.error.removeprefix(f"{state.name}: ")  # the error of a failed load names its consumer already
    failed = f"{state.name} failed to load" + (f": {error}" if error else "")
    has_orphans = bool(state.spec.unit) and any(process.unit == state.spec.unit for process in _foreign_processes(view))
    start = f", or start {state.spec.service} yourself" if state.spec.service and not has_orphans else ""
    return f"{failed}. Fix the cause, then retry in {state.retry_at - view.now:.0f} s{start}."


def _foreign_processes(view: View) -> list[ProcessUse]:
    return [process for sample in view.devices.values() for process in budget.foreign_processes(sample)]


def too_large(state: ConsumerState, device: int, total_mib: int, cushion_mib: int) -> str:
    """Refusal: the footprint with its cushion exceeds the whole device.

    Args:
        state: the requested consumer.
        device: index of the device.
        total_mib: MiB that the device has.
        cushion_mib: MiB of cushion that the load needs.
    """
    need, advice = format_mib(state.footprint_mib), "Use a smaller model, or a device with more VRAM"
    if state.spec.reservation is not None:
        need = f"{format_mib(state.footprint_mib + cushion_mib)} including a cushion of {format_mib(cushion_mib)}"
        advice = "Reserve less, or the whole device (option 'all')"
    elif state.footprint_mib <= total_mib:
        need = f"{format_mib(state.footprint_mib + cushion_mib)} including a cushion of {format_mib(cushion_mib)}"
        advice = "Use a smaller model, a device with more VRAM, or a lower cushion_mib"
    return f"{state.name} needs {need}, but device {device} has {format_mib(total_mib)}. {advice}."


def not_enough_vram(
    view: View, state: ConsumerState, device: int, need_mib: int, free_mib: int, *, within_limit: bool
) -> str:
    """Fact of a refusal, without advice: the evictions that are allowed do not free enough.

    Args:
        view: everything at this moment.
        state: the requested consumer.
        device: the device with least to spare.
        need_mib: MiB that the consumer needs there.
        free_mib: MiB that are free for it there.
        within_limit: False where ``max_evictions`` alone stands in the way.
    """
    limit = view.settings.max_evictions
    evictions = "evictions" if within_limit else f"{limit} eviction{'' if limit == 1 else 's'} (max_evictions)"
    return (
        f"not enough VRAM for {state.name} on device {device}: {format_mib(need_mib)} needed, "
        f"{format_mib(max(0, free_mib))} free, and {evictions} cannot free the rest; "
        f"held: {describe_holders(view, device, excluding=state.name)}"
        f"{_orphans_on(view, device)}{_unread(view, device)}"
    )


def _unread(view: View, device: int) -> str:
    """Name the failure of a device that cannot be read; "" where it can."""
    error = view.devices[device].error
    return f"; device {device} cannot be read ({error})" if error else ""


def _orphans_on(view: View, device: int) -> str:
    """Name the processes on the device that units of consumers have left behind; "" where there are none."""
    foreign = budget.foreign_processes(view.devices[device])
    units = {process.unit for process in foreign} & {state.spec.unit for state in view.consumers.values()} - {""}
    left = [describe_orphans(unit, [one for one in foreign if one.unit == unit]) for unit in sorted(units)]
    return "".join(f"; {text}" for text in left)


def how_to_free_vram(view: View, device: int, name: str, *, within_limit: bool) -> str:
    """Advice that goes with ``not_enough_vram``: what an administrator can do about the holders."""
    pinned = [state.name for state in view.consumers_on((device,)) if state.pinned and state.name != name]
    steps = [] if within_limit else ["raise max_evictions"]
    steps += [f"unpin {join_names(pinned)}"] if pinned else []
    if any(process.used_mib for process in budget.foreign_processes(view.devices[device])):
        steps.append("stop foreign processes")
    if budget.unexplained_mib(view, device) > budget.UNNAMED_NOISE_MIB:
        steps.append("stop programs that " + ("use host RAM" if view.devices[device].counts_host_ram else HOLD_UNNAMED))
    if view.devices[device].last is not None:
        steps.append("retry when the driver can be read")
    advice = " or ".join(steps or ["use a smaller model"])
    return f"{advice[0].upper()}{advice[1:]} to make room."


def busy_past_grace(consumers: Sequence[ConsumerState], shortage: str) -> str:
    """Refusal: consumers are busy for longer than requests wait for them; ``shortage`` is ``not_enough_vram``."""
    facts = [
        f"{state.name} is still {busyness.describe_work(state)} after its busy_grace_sec of "
        f"{state.spec.busy_grace_sec:g} s"
        for state in consumers
    ]
    names = join_names([state.name for state in consumers])
    return f"{join_names(facts)}; {shortage}. Retry when {names} {is_or_are(consumers)} idle."


def eviction_without_effect(consumers: Collection[str], shortage: str) -> str:
    """Refusal: evictions were tried and freed nothing; ``shortage`` is ``not_enough_vram``."""
    names = join_names(sorted(consumers))
    return f"{names} released no VRAM when evicted; {shortage}. Check the unload route, unit or container of {names}."


def no_host_ram(names: Sequence[str]) -> str:
    """Fact of a wait or refusal: victims that can only be parked find no room in host RAM."""
    return f"host RAM has no room to park {join_names(names)}"


# -- waits -------------------------------------------------------------------------------------------------------------


def in_use_elsewhere(view: View, state: ConsumerState, place: Devices) -> str:
    """Wait: the consumer is leased or loading on other devices than the requested ones."""
    name = describe_leased(view, [state])
    return f"{name} is in use on {describe_devices(state.devices)}, not on {describe_devices(place)}"


def device_job(view: View, device: int, job: Job) -> str:
    """Wait: a load or an eviction is in progress on a device."""
    victim = view.consumers.get(job.evicting[0]) if job.evicting else None
    unfreed = busyness.describe_unfreed(victim) if victim is not None else ""
    work = (
        f"evicting {job.evicting[0]}{unfreed and f' (unload {unfreed})'}" if job.evicting else f"loading {job.consumer}"
    )
    return f"device {device} is busy {work}"


def no_free_slot(view: View, device: int) -> str:
    """Wait: all lease slots of a device are taken."""
    slots, job = view.settings.concurrent_leases, view.jobs.get(device)
    leased = describe_leased(view, leased_on(view, device))
    if slots == 1 and leased:
        return f"device {device} is leased to {leased}"
    loading = f"{job.consumer} (being loaded)" if job is not None and job.takes_slot else ""
    holders = ", ".join(filter(None, (leased, loading)))
    if slots == 1:
        return f"device {device} is reserved for {holders or 'another request'}"
    return f"all {slots} lease slots of device {device} are taken by {holders}"


def leased_on(view: View, device: int) -> list[ConsumerState]:
    """The leased consumers on a device."""
    return [state for state in view.consumers.values() if state.leases and device in state.devices]


def leased_exclusively(view: View, device: int) -> str:
    """Wait: another client has an exclusive lease on the device, or will have it after a load."""
    job, consumer = view.jobs.get(device), view.exclusive_holder(device)
    loading = " (being loaded)" if device not in view.exclusive and job is not None else ""
    return f"device {device} is leased exclusively to {consumer}{loading}"


def other_leases(view: View, device: int) -> str:
    """Wait: an exclusive lease needs the device without any other lease."""
    job = view.jobs.get(device)
    holders = [state.name for state in view.consumers.values() if state.leases and device in state.devices]
    if job is not None and job.takes_slot and device in job.devices:
        holders.append(f"{job.consumer} (being loaded)")
    return f"an exclusive lease needs device {device} without other leases, and it is leased to {join_names(holders)}"


def waits_for_itself(consumer: str, lease_id: str, leased: str) -> str:
    """Refusal: the client of a request keeps a lease without whose end the request cannot be granted.

    Args:
        consumer: the requested consumer.
        lease_id: id of the lease.
        leased: the consumer of the lease; "" for a lease without one.
    """
    lease = f"lease {lease_id} on {leased}" if leased else f"lease {lease_id}, which reserves VRAM"
    advice = f"or give {leased} back for the time of the new lease: gpumanctl acquire --yield {lease_id} {consumer}"
    return (
        f"{consumer} cannot be granted while {lease} is active, and its owner keeps that lease until this request is "
        f"granted. Release it first: gpumanctl release {lease_id}" + (f"; {advice}." if leased else ".")
    )


def overcommitted(
    view: View,
    state: ConsumerState,
    device: int,
    committed_mib: int,
    total_mib: int,
    claimants: Sequence[ConsumerState],
) -> str:
    """Wait: the footprints reserved on a device leave no room for this one.

    Args:
        view: everything at this moment.
        state: the requested consumer.
        device: index of the device.
        committed_mib: MiB reserved for the claimants.
        total_mib: MiB that the device has.
        claimants: the consumers that they are reserved for.
    """
    is_known = all(claimant.footprint_known for claimant in claimants)
    part = format_mib(committed_mib) if is_known else "an unknown part"
    names = describe_leased(view, claimants)
    need = f"{state.name} needs {format_mib(state.footprint_mib)}"
    return f"{need}, but {part} of {format_mib(total_mib)} on device {device} is reserved for {names}"


def reserved_whole(view: View, claimants: Sequence[ConsumerState]) -> str:
    """Wait: a reservation has the whole device."""
    return "; ".join(
        f"{describe_devices(one.devices)} {is_or_are(one.devices)} reserved whole by {describe_leased(view, [one])}"
        for one in claimants
    )


def blockers(
    view: View,
    in_use: Sequence[ConsumerState],
    busy: Sequence[ConsumerState],
    in_turn: Sequence[ConsumerState],
    place: Devices,
) -> str:
    """Wait: consumers that could be evicted but for their leases, their loads or their own work.

    Args:
        view: everything at this moment.
        in_use: consumers that are leased, loading or unloading.
        busy: consumers that report work of their own.
        in_turn: consumers that were just loaded and have their turn.
        place: devices that the request would take.
    """
    leased, reserved = [one for one in in_use if one.leases], [one for one in in_use if one.is_merely_reserved]
    stuck = [one for one in in_use if one.residency is Residency.UNLOADING and one.error and not one.leases]
    others = [one for one in in_use if one not in leased and one not in reserved and one not in stuck]
    where, names = describe_devices(place), join_names([state.name for state in others])
    clauses = [f"{where} {is_or_are(place)} leased to {describe_leased(view, leased)}"] if leased else []
    clauses += [f"{names} {is_or_are(others)} in use on {where}"] if others else []
    clauses += [f"{one.name} may still load {format_mib(one.footprint_mib)} for its last request" for one in reserved]
    clauses += [f"{one.name} is still being unloaded ({one.error})" for one in stuck]
    for state in busy:
        grace = busyness.describe_grace(state, view.now)
        clauses.append(f"{state.name} is {busyness.describe_work(state)}" + (f" and {grace}" if grace else ""))
    clauses += [has_turn(view, state) for state in in_turn]
    return join_names(clauses)


def has_turn(view: View, state: ConsumerState) -> str:
    """Wait: the consumer was loaded a moment ago and keeps its turn while clients use it."""
    return f"{state.name} was loaded a moment ago and has its turn for up to {state.turn.ends_at - view.now:.0f} s more"


def host_ram_in_use(names: Sequence[str]) -> str:
    """Wait: consumers take host RAM that a victim needs to be parked, and are about to free it."""
    return f"{join_names(names)} {is_or_are(names)} using host RAM"


def requests_ahead(count: int, blocker: str = "") -> str:
    """Wait: earlier requests are served first; ``blocker`` is the message of the first of them that a lease blocks."""
    ahead = f"{count} request{'' if count == 1 else 's'} {'is' if count == 1 else 'are'} ahead of it"
    return f"{ahead}, and {blocker}" if blocker else ahead


def resident_goes_first(name: str) -> str:
    """Wait: a later request for a resident consumer is served before a load."""
    return f"a request for {name} goes first because {name} is resident"


# -- grants ------------------------------------------------------------------------------------------------------------


def fits(view: View, state: ConsumerState, place: Devices, need_mib: int, free_mib: int | None) -> str:
    """Grant: what the consumer needs and what is free; of several devices, on the one with least to spare."""
    each = "" if len(place) == 1 else f" on each of {describe_devices(place)}"
    free = "" if free_mib is None else f", {format_mib(free_mib)} free"
    samples = [view.devices[device] for device in place]
    notes = (unread_devices.reason(view, place), unread_devices.unchecked(samples))
    return "; ".join(filter(None, (f"{state.name} needs {format_mib(need_mib)}{each}{free}", *notes)))
