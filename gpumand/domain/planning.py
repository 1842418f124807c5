"""Decides whether a consumer can be granted now, and which evictions that takes. View and requirement in, decision out.

The steps, in the order of the rules:

1. Is the consumer configured, its VRAM requirement known, and no back-off after a failed load in force?
2. Which devices can it be on (``placement``)? Nearly always one; a consumer that needs several gets all or none.
3. Is it resident already? Then it needs only a lease slot, its footprint not reserved for others, and room to grow to
   its footprint, for which others are evicted where they can be.
4. Is anything being loaded or evicted on any of the devices? Then wait: one job at a time on a device.
5. Does it fit into what is free and not reserved? Then load.
6. Which consumers can be evicted (``victims``), and do they free enough together? Then evict what is needed, and load.
7. Would it fit once leases end? Then wait. Otherwise refuse, and name the holders of the memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gpumand.domain import (
    budget,
    claims,
    decision_messages,
    growth_room,
    parking,
    placement,
    unread_devices,
    victims,
    whole_device,
)
from gpumand.domain.decision import Decision, Requirement, refuse, wait
from gpumand.domain.device import Devices
from gpumand.domain.device_need import DeviceNeed, place_of, tightest_of
from gpumand.domain.errors import (
    Busy,
    ConfigInvalid,
    ConsumerBackingOff,
    DeviceUnavailable,
    EvictionFailed,
    InsufficientVram,
    InvalidArgs,
    NoSuchConsumer,
)
from gpumand.domain.fast_copy import copy_with
from gpumand.domain.leases_in_the_way import wait_for_leases
from gpumand.domain.name_suggestions import no_such_consumer
from gpumand.domain.nested_leases import without_lease
from gpumand.domain.once_free import tightest_once_free
from gpumand.domain.request import Verdict
from gpumand.domain.reservation import MAX_VRAM_MIB
from gpumand.domain.reserved_memory import is_whole_device
from gpumand.domain.residency_states import Residency
from gpumand.domain.view import ConsumerState, View
from gpumand.domain.wording import describe_devices


def decide(view: View, requirement: Requirement) -> Decision:
    """Decide about one requirement. Pure: the same view and requirement give the same decision."""
    state = view.consumers.get(requirement.consumer)
    if state is None:
        return refuse(NoSuchConsumer, no_such_consumer(requirement.consumer, view.consumers).message)
    if not state.footprint_known:
        return refuse(ConfigInvalid, decision_messages.footprint_unknown(state))
    if requirement.ignores_turns:
        view = replace(view, respects_turns=False)
    if requirement.gives_back is not None:
        view = without_lease(view, requirement.gives_back)
        state = view.consumers[state.name]
    places, alone = _candidate_places(view, requirement, state)
    if not places:
        return refuse(DeviceUnavailable, decision_messages.no_devices(view, state, requirement.devices))
    return _best_of([_decide_on(view, requirement, state, place) for place in places], alone)


def decide_within_job(view: View, requirement: Requirement, place: Devices) -> Decision:
    """Decide again in the middle of the requirement's own job, which does not block itself on its devices."""
    own = view.jobs.get(place[0])
    jobs = {index: job for index, job in view.jobs.items() if job is not own}
    return decide(replace(view, jobs=jobs), replace(requirement, devices=place, holds_slot=True))


def _candidate_places(
    view: View, requirement: Requirement, state: ConsumerState
) -> tuple[Sequence[Devices], Sequence[Decision]]:
    """The places to decide about, each a set of devices that the consumer takes together.

    The second part is the decisions about single devices by which the places were chosen, where there are too many.
    """
    current = placement.current_devices(view, state, requirement.devices)
    if current:
        return [current], ()
    allowed = placement.allowed_devices(view, state, requirement.devices)
    count = placement.required_count(view, state)
    if len(allowed) < count:
        return [], ()
    if placement.can_enumerate(allowed, requirement.devices, count):
        return placement.all_places(allowed, requirement.devices, count), ()
    # Too many combinations to try them all: rank single devices, then try neighbours in that ranking.
    alone = {device: _decide_on(view, requirement, state, (device,)) for device in allowed}
    ranked = sorted(allowed, key=lambda device: _rank(alone[device]))
    return placement.neighbouring_places(ranked, requirement.devices, count), tuple(alone.values())


_RANK = {Verdict.GRANT: 0, Verdict.WAIT: 1, Verdict.REFUSE: 2}


def _rank(decision: Decision) -> tuple[int, bool, bool, float, int]:
    """Order: grant, wait, refusal; with a reading; a fit before evictions; the lowest cost; the most free VRAM."""
    is_unread, has_victims = bool(decision.unread), bool(decision.evictions)
    return _RANK[decision.verdict], is_unread, has_victims, decision.cost, -(decision.free_mib or 0)


def _best_of(decisions: list[Decision], alone: Sequence[Decision]) -> Decision:
    best = decisions[0] if len(decisions) == 1 else min(decisions, key=_rank)
    eligible = {device for one in decisions if one.verdict is not Verdict.REFUSE for device in one.place}
    # A grant needs no other device; anything else may change when the others can be read again.
    others = () if best.verdict is Verdict.GRANT else decisions
    return copy_with(
        best,
        unread=best.unread or next((one.unread for one in others if one.unread), ""),
        needs_fresh_sample=any(one.needs_fresh_sample for one in decisions),
        eligible_devices=tuple(sorted(eligible)),
        # The end of a lease on any other place may make that one the best.
        holders=best.holders if len(decisions) == 1 else _holders([*decisions, *alone]),
    )


def _holders(decisions: Sequence[Decision]) -> tuple[str, ...]:
    return tuple(sorted({name for one in decisions for name in one.holders}))


def _decide_on(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    if state.devices != place and state.claimed:
        # Its footprint is reserved on other devices; one process cannot be in two places.
        return wait_for_leases(view, place, decision_messages.in_use_elsewhere(view, state, place), [state])
    if any(state.name in job.evicting for job in view.jobs.values()):
        return wait(place, f"{state.name} is about to be evicted")
    # Without readings it is unknown which devices a resident consumer is on: then it is granted wherever requested.
    # Where evidence contradicts its residency, it goes through a load, which verifies it before the grant.
    if state.residency is Residency.RESIDENT and not state.is_doubtful and state.devices in ((), place):
        return _decide_resident(view, requirement, state, place)
    if placement.is_on_other_devices(view, state, place):
        return refuse(InvalidArgs, decision_messages.on_other_devices(state, place), place)
    # The load in progress waits for this answer. An externally started unit has no job yet that makes room for it.
    if requirement.from_own_unit and state.residency is Residency.LOADING and not state.external_load:
        message = f"{state.name} is loading, and the request comes from its own unit"
        return Decision(Verdict.GRANT, place, resident=True, message=message)
    return _decide_load(view, requirement, state, place)


def _decide_resident(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    blocked = None
    if requirement.wants_lease:
        blocked = (
            _wait_for_slot(view, requirement, place)
            or _refuse_too_large(view, state, place, cushion_mib=0)
            or _wait_for_reservations(view, state, place)
        )
        if blocked is None and _lacks_reserved_room(view, state, place):
            return _decide_load(view, requirement, state, place)
        blocked = blocked or _make_room_to_grow(view, requirement, state, place)
    return blocked or Decision(Verdict.GRANT, place, resident=True, message=f"{state.name} is resident")


def _make_room_to_grow(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision | None:
    """Evict for what a loaded consumer may still allocate, or wait for those that may not go yet.

    None where it can grow, or where neither would help: then it is granted with what it holds.
    """
    needs = [] if is_whole_device(state) else growth_room.needs(view, state, place)
    decision = _room_for(view, requirement, state, place, needs) if needs else None
    if decision is None or decision.verdict is Verdict.REFUSE:
        return None
    return _wait_for_job(view, requirement, state, place) or decision


def _decide_load(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    if unavailable := unread_devices.refusal(view, state, place, requirement.devices):
        return unavailable
    if state.retry_at > view.now:
        return refuse(ConsumerBackingOff, decision_messages.backing_off(view, state), place)
    # Refusals come before waits, so that no request waits for something that cannot help it. Reservations come before
    # room: nothing is evicted for a consumer whose footprint could not be reserved afterwards.
    return (
        _refuse_too_large(view, state, place, cushion_mib=view.settings.cushion_mib)
        or _wait_for_job(view, requirement, state, place)
        or _wait_for_slot(view, requirement, place)
        or _wait_for_reservations(view, state, place)
        or unread_devices.waiting(view, state, place, requirement.devices)
        or replace(_make_room(view, requirement, state, place), unread=unread_devices.reason(view, place))
    )


def _refuse_too_large(view: View, state: ConsumerState, place: Devices, cushion_mib: int) -> Decision | None:
    """Refuse what does not fit into an empty device with its cushion: waiting for leases to end would not help."""
    if is_whole_device(state):
        return None
    for device in place:
        total_mib = budget.total_mib(view, device)
        if total_mib is not None and state.footprint_mib + cushion_mib > total_mib:
            message = decision_messages.too_large(state, device, total_mib, cushion_mib)
            return refuse(InsufficientVram, message, place)
    return None


def _wait_for_job(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision | None:
    """Wait while anything is loaded or evicted on any of the devices: one job at a time on a device."""
    for device in place:
        job = view.jobs.get(device)
        if job is not None:
            return wait(place, decision_messages.device_job(view, device, job))
    if state.residency is Residency.UNLOADING:
        return wait(place, f"{state.name} is being unloaded")
    # A load that the daemon did not start has no job, but measures free memory just the same.
    for other in view.loading:
        is_own_start = other.name == state.name and requirement.from_own_unit
        if not is_own_start and not set(place).isdisjoint(other.devices):
            return wait(place, f"{other.name} is loading on {describe_devices(other.devices)}")
    return None


def _wait_for_slot(view: View, requirement: Requirement, place: Devices) -> Decision | None:
    if not requirement.wants_lease or requirement.holds_slot:
        return None
    slots = view.settings.concurrent_leases
    for device in place:
        leased = decision_messages.leased_on(view, device)
        if view.exclusive_holder(device):
            return wait_for_leases(view, place, decision_messages.leased_exclusively(view, device), leased)
        taken = view.slots_taken(device)
        if requirement.exclusive and taken:
            return wait_for_leases(view, place, decision_messages.other_leases(view, device), leased)
        if 0 < slots <= taken:
            return wait_for_leases(view, place, decision_messages.no_free_slot(view, device), leased)
    return None


def _wait_for_reservations(view: View, state: ConsumerState, place: Devices) -> Decision | None:
    """Wait where reserved footprints would exceed the device, even if little of them is allocated yet."""
    for device in () if is_whole_device(state) else place:
        total_mib = budget.total_mib(view, device)
        committed_mib = budget.committed_mib(view, device, excluding=state.name)
        # A reservation of the whole device has a footprint larger than any device, also where the size is unknown.
        if committed_mib + state.footprint_mib > (MAX_VRAM_MIB if total_mib is None else total_mib):
            claimants = claims.claimants(view, state, (device,))
            takes_all = [one for one in claimants if is_whole_device(one)]
            if takes_all:
                return wait_for_leases(view, place, decision_messages.reserved_whole(view, takes_all), takes_all)
            if total_mib is None:
                continue
            message = decision_messages.overcommitted(view, state, device, committed_mib, total_mib, claimants)
            return wait_for_leases(view, place, message, claimants, committed_mib + state.footprint_mib - total_mib)
    return None


def _lacks_reserved_room(view: View, state: ConsumerState, place: Devices) -> bool:
    """Whether a resident consumer that loads on its next request lacks room that is reserved without a lease."""
    others = (
        [one for one in claims.claimants(view, state, place) if view.may_be_reclaimed(one)] if state.spec.lazy else []
    )
    for device in place if others else ():
        total_mib = budget.total_mib(view, device)
        reserved_mib = sum(one.footprint_mib for one in others if device in one.devices)
        committed_mib = budget.committed_mib(view, device, excluding=state.name) + reserved_mib
        if total_mib is not None and committed_mib + state.footprint_mib > total_mib:
            return True
    return False


def _make_room(view: View, requirement: Requirement, state: ConsumerState, place: Devices) -> Decision:
    if is_whole_device(state):
        return unread_devices.waiting_to_evict(view, place) or whole_device.clear(view, state, place)
    needs = [
        DeviceNeed(device, budget.need_mib(view, device, state.name), budget.free_mib(view, device, state.name))
        for device in place
    ]
    return _room_for(view, requirement, state, place, needs)


def _room_for(
    view: View, requirement: Requirement, state: ConsumerState, place: Devices, needs: Sequence[DeviceNeed]
) -> Decision:
    unread = unread_devices.waiting_to_evict(view, place)
    short_mib = {need.device: need.short_mib for need in needs if need.short_mib}
    limit = max(0, view.settings.max_evictions - requirement.evictions_done) if short_mib and unread is None else 0
    choice = parking.choose(view, place, state, short_mib, limit)
    if choice.suffices:
        return _load(view, state, needs, choice)
    unparkable = [one.consumer for one in choice.spared if one.why == parking.NO_HOST_RAM]
    blocked = _wait_or_refuse(view, state, needs, unparkable, unread)
    return replace(blocked, spared=choice.spared, needs_fresh_sample=True)


def _load(view: View, state: ConsumerState, needs: Sequence[DeviceNeed], choice: victims.Choice) -> Decision:
    tightest, place = tightest_of(needs), place_of(needs)
    victim_devices = {
        device for victim in choice.victims for device in view.devices_of(view.consumers[victim.consumer])
    }
    # A reservation has nothing to load: once there is room, only the grant is left to do.
    is_ready = state.spec.reservation is not None and not choice.victims
    return Decision(
        Verdict.GRANT,
        place,
        resident=is_ready,
        load=not is_ready,
        need_mib=tightest.need_mib,
        free_mib=tightest.free_mib,
        evictions=choice.victims,
        spared=choice.spared,
        message=decision_messages.fits(view, state, place, tightest.need_mib, tightest.free_mib),
        needs_fresh_sample=any(view.devices[device].is_measured or view.devices[device].error for device in place),
        cost=choice.cost,
        extra_devices=tuple(sorted(victim_devices.intersection(view.devices).difference(place))),
    )


def _wait_or_refuse(
    view: View,
    state: ConsumerState,
    needs: Sequence[DeviceNeed],
    unparkable: Sequence[str],
    unread: Decision | None,
) -> Decision:
    """Wait if a lease or a load blocks the request, refuse if its end would not help. No eviction is wasted.

    Args:
        view: everything at this moment.
        state: the requested consumer.
        needs: what is needed and free, by device.
        unparkable: consumers that could be evicted if host RAM had room to park them; they count as evictable where
            some host RAM is about to be freed.
        unread: the wait where evictions would free enough, but cannot be verified; None = they can.
    """
    place = place_of(needs)
    blockers = victims.temporarily_exempt(view, place, state)
    freeing_ram = parking.consumers_freeing_host_ram(view, place, state, unparkable) if unparkable else []
    evictable = [one for one in victims.candidates(view, place, state) if freeing_ram or one.name not in unparkable]
    tightest, spare_mib = tightest_once_free(view, state, needs, [*evictable, *blockers])
    claimants = claims.claimants(view, state, place)
    if (blockers or claimants or freeing_ram) and spare_mib >= 0:
        decision = _wait_for_blockers(view, place, blockers, claimants, freeing_ram, unparkable)
    elif unread is not None and spare_mib >= 0:
        decision = unread
    else:
        decision = _refuse_no_room(view, state, needs, tightest, spare_mib, [*evictable, *blockers], unparkable)
    return replace(decision, need_mib=tightest.need_mib, free_mib=tightest.free_mib)


def _wait_for_blockers(
    view: View,
    place: Devices,
    blockers: list[ConsumerState],
    claimants: list[ConsumerState],
    freeing_ram: list[str],
    unparkable: Sequence[str],
) -> Decision:
    busy = [one for one in blockers if victims.is_only_busy(view, one)]
    # A claimant may not be evictable at all, and is still waited for: its reservation ends with its lease or load.
    in_turn = [one for one in blockers if victims.only_has_turn(view, one)]
    in_use = [one for one in blockers if one not in busy and one not in in_turn] if blockers else claimants
    # The answer of a busy check ends a reservation without a lease sooner than the rest of its growth does.
    reserved = [one for one in claimants if not blockers and view.may_be_reclaimed(one) and one.spec.busy]
    message = decision_messages.blockers(view, in_use, busy, in_turn, place)
    message = message or decision_messages.host_ram_in_use(freeing_ram)
    message += f"; {decision_messages.no_host_ram(unparkable)}" if unparkable else ""
    return replace(
        wait_for_leases(view, place, message, in_use),
        busy=tuple(one.name for one in (*busy, *reserved)),
        retry_at=victims.first_turn_end(view, in_turn),
    )


def _refuse_no_room(
    view: View,
    state: ConsumerState,
    needs: Sequence[DeviceNeed],
    tightest: DeviceNeed,
    spare_mib: float,
    evictable: list[ConsumerState],
    unparkable: Sequence[str],
) -> Decision:
    place, device = place_of(needs), tightest.device
    # Everything together would free enough and nothing is waited for: only the number of evictions is too large.
    within_limit = spare_mib < 0
    shortage = decision_messages.not_enough_vram(
        view, state, device, tightest.need_mib, tightest.free_mib or 0, within_limit=within_limit
    )
    shortage += f"; {decision_messages.no_host_ram(unparkable)}" if unparkable else ""
    abandoned = victims.busy_past_grace(view, place, state)
    if abandoned and tightest_once_free(view, state, needs, [*evictable, *abandoned])[1] >= 0:
        return refuse(Busy, decision_messages.busy_past_grace(abandoned, shortage), place)
    if view.evict_failed:
        return refuse(EvictionFailed, decision_messages.eviction_without_effect(view.evict_failed, shortage), place)
    advice = decision_messages.how_to_free_vram(view, device, state.name, within_limit=within_limit)
    return refuse(InsufficientVram, f"{shortage}. {advice}", place)
